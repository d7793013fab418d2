"""The guide's example, from a folder of brat files to a served model: one YAML file, and no Python."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner
from pyarrow.parquet import read_table

from conftest import ROOT, runner_in
from odin_slm import cli
from odin_slm.config.parameters import IngestionParams, TaskParams
from odin_slm.inference.served_model import resolve_model
from odin_slm.serving.__main__ import build
from odin_slm.serving.settings import ApiKeys, ServingSettings
from serving_service import SMALL, running

GUIDE = ROOT / "docs/how-to/use-your-own-data.md"
QUICK = {
    "ingestion": {"max_tokens": 900},  # the tiny tokenizer of the tests needs more tokens for the same text
    "training": {"max_seq_length": 900, "max_steps": 4, "batch_size": 4, "evaluations": 1},
    "evaluation": {"max_new_tokens": 24, "bootstrap_resamples": 100},
    "publishing": {"maximum_parse_failure_rate": 1.0},
}
ASKED = "Extract entities: Gene, Dose, Route. Relations: given_at."


def configuration() -> str:
    """The guide's one file."""
    found = re.search(r'^```yaml title="conf/ward/globals.yml"\n(.*?)^```', GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_the_guide_shows_what_the_check_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed = CliRunner().invoke(cli.cli, ["corpus", "check", "data/01_raw/notes", "--format", "brat"]).stdout
    shown = "".join(f"    {line}\n" if line else "\n" for line in printed.rstrip().split("\n"))
    assert shown in GUIDE.read_text(encoding="utf-8")


def test_every_block_of_the_guide_is_one() -> None:
    blocks = re.findall(r"^```yaml[^\n]*\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for text in blocks:
        IngestionParams.model_validate({"corpora": "auto", "own_corpora": yaml.safe_load(text)["own_corpora"]})


@pytest.fixture
def ward(project: Path) -> Path:
    shutil.copytree(ROOT / "data/01_raw/notes", project / "data/01_raw/notes")
    (project / "conf/ward").mkdir()
    (project / "conf/ward/globals.yml").write_text(configuration(), encoding="utf-8")
    return project


@pytest.mark.slow
def test_the_guides_folder_becomes_a_served_model(ward: Path) -> None:
    assert len(configuration().splitlines()) <= 30
    checked = CliRunner().invoke(cli.cli, ["corpus", "check", "notes", "--env", "ward"])
    assert checked.exit_code == 0, checked.output
    run = runner_in(ward, env="ward")
    run(params=QUICK)

    manifest = json.loads((ward / "data/05_model_input/ward/manifest.json").read_text())
    assert {"notes/train/note-01.ann", "notes/train/note-01.txt"} <= set(manifest["inputs"])
    assert manifest["counts"]["train"]["by_source"] == {"notes": 28}
    train = json.loads((ward / "data/05_model_input/ward/train.json").read_text())
    assert {record["instruction"] for record in train} == {ASKED}
    assert any("ORDA7 --[given_at]--> 40 µg" in record["output"] for record in train)
    results = json.loads((ward / "data/08_reporting/ward/evaluation_results.json").read_text())
    assert set(results["entity_metrics"]["by_type"]) == {"Gene", "Dose", "Route"}
    card = (ward / "data/08_reporting/ward/release/model/README.md").read_text()
    assert "# odin-ward" in card
    assert f"- `notes`: {ASKED}" in card
    assert "Gene" in (ward / "data/08_reporting/ward/type_scores.json").read_text()

    text = "ORDA7 was given at 40 µg."
    adapter = str(ward / "data/06_models/ward/adapter")
    app = build(ServingSettings(**SMALL, model=adapter), ApiKeys(), resolve_model(adapter, root=ward))
    with running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        schemas = client.get("/model").json()["schemas"]
        assert schemas["notes"] == {"entities": ["Gene", "Dose", "Route"], "relations": ["given_at"]}
        found = client.post("/predict", json={"text": text}).json()["results"][0]
        assert {entity["type"] for entity in found["entities"]} <= {"Gene", "Dose", "Route"}
        assert '"source": "notes"' in client.get("/").text
    documents = ward / "documents.txt"
    documents.write_text(text)
    run("extraction", params={"documents": str(documents), "extraction": {"max_new_tokens": 24}})
    (shard,) = (ward / "data/07_model_output/ward/extractions").glob("*.parquet")
    assert read_table(shard).to_pylist()[0]["schema"] == "notes"


def test_what_faults_have_cost_stands_in_the_manifest(ward: Path) -> None:
    broken = ward / "data/01_raw/notes/train/note-02.ann"
    broken.write_text(broken.read_text().replace("T2\tDose 33 38", "T2\tDose 3 8"))
    run = runner_in(ward, env="ward")
    with pytest.raises(Exception, match=r"train/note-02\.ann:2: characters 3-8") as raised:
        run("data", params=QUICK)
    assert "which stands at 33-38" in str(raised.value)
    file = ward / "conf/ward/globals.yml"
    file.write_text(file.read_text() + "    on_fault: drop\n")
    run("data", params=QUICK)
    lost = {"fault, mention: with offsets that do not fit": 1, "relation: with a mention that was dropped": 1}
    manifest = json.loads((ward / "data/05_model_input/ward/manifest.json").read_text())
    assert manifest["dropped"] == {"notes": lost}
    report = json.loads((ward / "data/02_intermediate/ward/own_parse_report.json").read_text())
    assert report["corpora"]["notes"]["dropped"] == lost
    assert report["documents"] == 40


def block(**changes: Any) -> dict[str, Any]:
    relations = {"given_at": {"head": ["Gene"], "tail": ["Dose"]}}
    given = {"folder": "notes", "format": "brat", "entities": ["Gene", "Dose"], "relations": relations}
    return {**given, **changes}


def task(own: dict[str, Any], **options: Any) -> Any:
    return TaskParams.model_validate({"own_corpora": own, **({"options": options} if options else {})}).task()


def test_the_types_of_an_experiment_are_those_of_its_corpora() -> None:
    other = block(
        entities={"G": "Gene", "Way": "Route", "Note": None},
        relations={"by": {"type": "given_by", "head": ["Gene"], "tail": ["Route"]}},
    )
    found = task({"notes": block(), "letters": other})
    assert found.types.entities == ("Gene", "Dose", "Route")
    assert found.types.legal == {"given_at": {("Gene", "Dose")}, "given_by": {("Gene", "Route")}}
    assert found.instruction("letters") == "Extract entities: Gene, Route. Relations: given_by."
    assert set(found.sources) == {"all", "notes", "letters"}


def test_corpora_of_the_shipped_types_leave_them_as_they_are() -> None:
    relations = {"AE": {"type": "causes", "head": ["Drug"], "tail": ["Symptom"]}}
    found = task({"notes": block(entities=["Drug", "Symptom"], relations=relations)})
    assert found.types.entities == ("Drug", "Disease", "Symptom")
    assert found.default_source == "notes"
    assert found.instruction("notes") == "Extract entities: Drug, Symptom. Relations: causes."


def test_types_that_an_experiment_names_itself_win() -> None:
    relations = [{"type": "given_at", "head": ["Gene"], "tail": ["Dose"]}]
    found = task({"notes": block()}, entities=["Gene", "Dose", "Drug"], relations=relations)
    assert found.types.entities == ("Gene", "Dose", "Drug")
    with pytest.raises(ValueError, match=r"sources\.notes: 'Dose' is no entity type; there are Gene"):
        task({"notes": block()}, entities=["Gene"], relations=[])


def test_own_corpora_become_records_in_place_of_the_shipped_ones() -> None:
    values = {"corpora": "auto", "own_corpora": {"notes": block()}}
    assert IngestionParams.model_validate(values).corpora == ("notes",)
    assert IngestionParams.model_validate({**values, "own_corpora": {}}).corpora == ("ade", "bc5cdr", "biored")
    assert IngestionParams.model_validate({**values, "corpora": ["ade", "notes"]}).corpora == ("ade", "notes")


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"ade": block()}, "'ade' is another corpus"),
        ({"synthetic": block()}, "'synthetic' is another corpus"),
        ({"a b": block()}, "own_corpora"),
        ({"notes": block(entities=None)}, "kedro corpus check notes --format brat"),
        ({"notes": block(entities={"Gene": None})}, "all of them are dropped"),
        ({"notes": block(format="jsonl", review="review.json")}, "name the corrected files by files"),
        ({"notes": block(entities=["a gene"])}, "entities"),
        ({"notes": block(entities=["Gene"])}, "relations.given_at: 'Dose' is no entity type; there are Gene"),
        ({"notes": block(format="word")}, "format"),
        ({"notes": block(files=["../*.ann"])}, "lead out of the folder"),
        ({"notes": block(split={"files": {"train": "/etc/*"}})}, "lead out of the folder"),
        ({"notes": block(split={})}, "either files or field"),
        ({"notes": block(pmid="(")}, "no regular expression"),
        ({"notes": block(on_faults="drop")}, "on_faults"),
    ],
)
def test_a_wrong_block_is_refused_before_anything_runs(own: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        IngestionParams.model_validate({"corpora": "auto", "own_corpora": own})
