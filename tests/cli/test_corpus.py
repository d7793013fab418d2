"""``kedro corpus check``: what is there, with its place, and an exit status that tells whether a run would stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from odin_slm import cli
from odin_slm.config.parameters import IngestionParams
from own_corpora_files import LAYOUTS, NOTES

TEXT = "BRAF got 5 mg."
ANN = "T1\tGene 0 4\tBRAF\nT2\tDose 9 13\t5 mg\nT3\tDose 5 13\tgot 5 mg\nT4\tGene 0 4;9 10\tBRAF 5\n"
RELATION = "R1\tgiven_at Arg1:T1 Arg2:T2\n"


def check(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["corpus", "check", *arguments])


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT)
    (folder / "a.ann").write_text(ANN + RELATION)
    monkeypatch.chdir(tmp_path)
    return folder


def test_it_says_what_is_there_and_where(notes: Path) -> None:
    result = check("notes", "--format", "brat")
    assert result.exit_code == 0, result.output
    for line in (
        "notes, in brat",
        "  documents   1",
        "  entities    Dose 2, Gene 1",
        "  relations   given_at 1",
        "Gene given_at Dose: 1",
        "  overlapping 1: a.ann:2",
        "  in pieces   1: a.ann:4",
        "  dropped     1 mention: in several pieces",
        "  faults      0",
    ):
        assert line in result.output


def test_its_block_is_a_configuration_that_reads_the_folder(notes: Path) -> None:
    said = check("notes", "--format", "brat").output.partition("globals.yml:\n")[2]
    own = yaml.safe_load(said)["own_corpora"]
    block = IngestionParams.model_validate({"corpora": "auto", "own_corpora": own}).own_corpora["notes"]
    assert (block.folder, block.format) == ("notes", "brat")
    assert block.annotates.entities == ("Dose", "Gene")
    assert block.legal() == {"given_at": {("Gene", "Dose")}}


def test_its_block_gives_types_names_that_an_output_can_hold(notes: Path) -> None:
    rows = [{"text": TEXT, "entities": [], "relations": []}]
    spans = (("Gene/Protein", 0, 4), ("2nd dose", 9, 13))
    rows[0]["entities"] = [
        {"id": n, "label": k, "start_offset": b, "end_offset": e} for n, (k, b, e) in enumerate(spans)
    ]
    rows[0]["relations"] = [{"id": 0, "from_id": 0, "to_id": 1, "type": "given at"}]
    (notes / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = check("notes", "--format", "jsonl").output.partition("globals.yml:\n")[2]
    own = yaml.safe_load(said)["own_corpora"]
    block = IngestionParams.model_validate({"corpora": "auto", "own_corpora": own}).own_corpora["notes"]
    assert block.entities == {"2nd dose": "T_2nd_dose", "Gene/Protein": "Gene_Protein"}
    assert block.legal() == {"given_at": {("Gene_Protein", "T_2nd_dose")}}


def test_its_block_keeps_types_apart_that_one_word_would_merge(notes: Path) -> None:
    kinds = ("A B", "A_B", "A/B", "grade\u00b2", "दवा", "yes")
    spans = [{"label": kind, "start_offset": 0, "end_offset": 4} for kind in kinds]
    (notes / "a.jsonl").write_text(json.dumps({"text": TEXT, "entities": spans}), encoding="utf-8")
    said = check("notes", "--format", "jsonl").output.partition("globals.yml:\n")[2]
    own = yaml.safe_load(said)["own_corpora"]
    block = IngestionParams.model_validate({"corpora": "auto", "own_corpora": own}).own_corpora["notes"]
    same = {kind: kind for kind in ("A_B", "दवा", "yes")}
    assert block.entities == {**same, "A B": "A_B_2", "A/B": "A_B_3", "grade\u00b2": "grade"}


def test_files_that_lead_out_of_the_folder_are_refused_in_a_sentence(notes: Path) -> None:
    result = check("notes", "--format", "brat", "--files", "../*.ann")
    assert result.exit_code == 1
    assert "kedro corpus check.files.0: Value error, '../*.ann' may lead out of the folder" in result.output


def test_faults_are_named_with_their_lines_and_stop(notes: Path) -> None:
    (notes / "a.ann").write_text(ANN + "T5\tGene 1 5\tBRAF\nR1\tgiven_at Arg1:T1 Arg2:T8\nnothing\n")
    result = check("notes", "--format", "brat")
    assert result.exit_code == 1
    for line in (
        "  faults      3",
        "    a.ann:5: characters 1-5",
        "    a.ann:6: given_at relates",
        "    a.ann:7: found",
    ):
        assert line in result.output
    assert "A run would stop." in result.output
    report = json.loads(check("notes", "--format", "brat", "--json").stdout)
    assert report["stops"]
    assert [one["where"] for one in report["faults"]] == ["a.ann:7", "a.ann:5", "a.ann:6"]
    assert report["overlaps"] == ["a.ann:2"]


def test_a_corpus_of_an_environment_is_read_as_its_block_says(bare_project: Path, notes: Path) -> None:
    (notes / "a.ann").write_text(ANN + "T5\tGene 1 5\tBRAF\n")
    (bare_project / "conf/ward").mkdir()
    block = {"folder": "notes", "format": "brat", "entities": {"Gene": "Gene", "Dose": None}}
    for on_fault, code in (("stop", 1), ("drop", 0)):
        own = {"own_corpora": {"letters": {**block, "on_fault": on_fault}}}
        (bare_project / "conf/ward/globals.yml").write_text(yaml.safe_dump(own))
        result = check("letters", "--env", "ward")
        assert result.exit_code == code, result.output
        assert "  entities    Gene 1\n" in result.output
        assert "    a.ann:5: characters 1-5" in result.output
    result = check("others", "--env", "ward")
    assert result.exit_code == 1
    assert "there is no corpus 'others'; there are letters." in result.stderr
    (bare_project / "conf/ward/globals.yml").write_text(yaml.safe_dump({"own_corpora": {"letters": {"format": "x"}}}))
    result = check("letters", "--env", "ward")
    assert result.exit_code == 1
    assert "conf/ward/globals.yml, own_corpora.letters.folder: Field required." in result.stderr


def test_a_folder_without_such_files_is_named(notes: Path) -> None:
    result = check("notes", "--format", "parquet")
    assert result.exit_code == 1
    assert "notes: there is no file called *.parquet in it." in result.stderr
    assert check("nowhere", "--format", "brat").exit_code == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_can_be_looked_at(name: str, tmp_path: Path) -> None:
    for file, content in LAYOUTS[name].write(NOTES).items():
        (tmp_path / file).write_bytes(content)
    report = json.loads(check(str(tmp_path), "--format", LAYOUTS[name].format, "--json").stdout)
    assert (report["documents"], report["stops"]) == (3, False)
    assert report["mentions"] == {"Dose": 2, "Gene": 2, "Route": 1}
