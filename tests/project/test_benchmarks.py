"""Benchmarks that are more than a clock: of a GPU, of damaged files, of baselines."""

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import ROOT
from odin_slm.core.document import Document, Mention, Relation
from odin_slm.core.record import Record
from odin_slm.models.backends import cuda
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, parse, render
from own_corpora_files import LAYOUTS
from training.test_training import records


@pytest.fixture
def gpu() -> ModuleType:
    return benchmark("gpu")


@cache
def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / f"benchmarks/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there for their module
    spec.loader.exec_module(module)
    return module


def test_its_rows_train_and_are_measured(
    gpu: ModuleType, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "train.json"
    data.write_text(json.dumps(records(40)))
    monkeypatch.setattr(gpu, "DATA", data)
    monkeypatch.setattr(gpu, "V15", gpu.V15 | {"load_in_4bit": False, "optimizer": "adamw_torch"})
    for way in ("predecessor", "packed"):
        found = gpu.measure("transformers", way, str(tiny_base), 5)
        assert found["examples"] > 0, way
        assert 100 < found["tokens"] / found["examples"] < 200, way
        assert found["weights"] == 8_030_261_248


@pytest.mark.slow
def test_without_a_gpu_nothing_is_measured(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    if cuda():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit, match=r"no CUDA device here.*Nothing was measured"):
        gpu.main(3)
    assert not capsys.readouterr().out


@pytest.fixture(scope="module")
def fuzzed_readers() -> dict[str, Any]:
    return benchmark("fuzz").readers()  # type: ignore[no-any-return]


READERS = ("ADE", "PubTator", "PubTator (BioRED)", "BioC JSON", "zip", "IOB", "jsonl", "jsonl.gz", "csv", "tsv")


@pytest.mark.parametrize("name", [*READERS, "parquet", "xml", "xml.gz", "txt", *LAYOUTS])
def test_damaged_files_are_read_set_aside_or_refused(fuzzed_readers: dict[str, Any], name: str) -> None:
    found = benchmark("fuzz").fuzz(name, fuzzed_readers[name], 101, seed=3)
    assert found["failures"] == []
    assert 0 < found.get("read", 0) < 101, "some damage is harmless, some is not"


def test_every_reader_is_fuzzed_and_a_failure_is_found(fuzzed_readers: dict[str, Any]) -> None:
    assert set(fuzzed_readers) == {*READERS, "parquet", "xml", "xml.gz", "txt", *LAYOUTS}

    def fails(folder: Path) -> str:
        raise UnicodeError("no error of the project")

    fuzz = benchmark("fuzz")
    found = fuzz.fuzz("txt", fuzz.Reader(fuzzed_readers["txt"].files, fuzzed_readers["txt"].large, fails), 2, seed=3)
    assert [failure.split(": ")[1] for failure in found["failures"]] == ["UnicodeError"] * 2


def abstract(number: int, text: str, drugs: list[str], symptom: str, cause: str) -> Record:
    """A record of some drugs and a symptom, which one of them causes."""
    entities = (*(Entity("Drug", drug) for drug in drugs), Entity("Symptom", symptom))
    output = render(Extraction(entities, (RelationTriple(cause, "causes", symptom),)))
    given = {"instruction": "", "input": text, "output": output, "source": "ade"}
    return Record(**given, id=f"ade-{number}", document_id=f"ade-{number}")


def test_the_baselines_know_what_training_marks_and_relates() -> None:
    baselines = benchmark("baselines")
    train = [
        abstract(1, "Aspirin gave him nausea. He took folate.", ["Aspirin", "folate"], "nausea", "Aspirin"),
        abstract(2, "Folate was given. The aspirin led to rash.", ["Folate", "aspirin"], "rash", "aspirin"),
    ]
    rules = baselines.rules_of(train)
    assert rules == [("Drug", "causes", "Symptom", True)], "of all pairs, half are wrong"
    find = baselines.dictionary(train)
    new = abstract(3, "Folate was stopped. ASPIRIN, not aspirins, caused a rash.", ["ASPIRIN"], "rash", "ASPIRIN")
    row = baselines.row_of(new, find(new), rules)
    found = parse(row["prediction"]).extraction
    assert found.entities == (Entity("Drug", "Folate"), Entity("Drug", "ASPIRIN"), Entity("Symptom", "rash"))
    assert found.relations == (RelationTriple("ASPIRIN", "causes", "rash"),)
    everywhere = baselines.row_of(new, find(new), [("Drug", "causes", "Symptom", False)])
    assert len(parse(everywhere["prediction"]).extraction.relations) == 2
    lines = list(baselines.measured("dictionary", [row]))
    assert [line.split()[1] for line in lines] == ["all", "with"]
    assert "100.0" in lines[0]


def test_a_word_that_training_seldom_marks_is_in_no_dictionary() -> None:
    baselines = benchmark("baselines")
    marked = abstract(1, "Pain after aspirin.", ["aspirin"], "Pain", "aspirin")
    nothing = {"output": render(Extraction()), "instruction": "", "source": "ade", "document_id": "ade-2"}
    unmarked = [Record(**nothing, input="No pain, and pain no more.", id=f"ade-{number}") for number in (2, 3)]
    find = baselines.dictionary([marked, *unmarked])
    assert [kind for *_, kind in find(marked)] == ["Drug"]


def test_both_ways_of_folding_test_every_sentence_once_and_gold_scores_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # as where it is run from
    folds = benchmark("folds")
    documents = [adverse_effect(n) for n in range(60)]
    pmids = {document.id: document.pmid for document in documents}
    for by_document, torn in ((False, False), (True, True)):
        fold = folds.folds_of(documents, 5, by_document=by_document)
        assert fold.keys() == pmids.keys()
        assert set(fold.values()) == set(range(5))
        several = {pmid for pmid in pmids.values() if len({fold[d] for d in fold if pmids[d] == pmid}) > 1}
        assert bool(several) is torn
    rows = [{"document_id": d.id, "input": d.text, "prediction": extraction_of(d)} for d in documents]
    assert folds.strict(rows, documents) == {"entity": 1.0, "relation": 1.0}
    nothing = [{**row, "prediction": render(Extraction((), ()))} for row in rows[:30]] + rows[30:]
    assert folds.strict(nothing, documents) == pytest.approx({"entity": 2 / 3, "relation": 2 / 3})


def adverse_effect(number: int) -> Document:
    drug, effect = f"drug{number * 7919 % 10007}", f"rash{number * 104729 % 9973}"
    text = f"{drug} gave patient {number * 31 % 977} in ward {number * 17 % 89} {effect}."
    mentions = tuple(
        Mention(text.index(name), text.index(name) + len(name), name, kind, (name,))
        for name, kind in ((drug, "Drug"), (effect, "Symptom"))
    )
    relations = (Relation("causes", drug, effect),)
    return Document(f"ade-{number}", text, "ade", str(number // 3), mentions=mentions, relations=relations)


def extraction_of(document: Document) -> str:
    entities = tuple(Entity(mention.type, mention.text) for mention in document.mentions)
    triples = tuple(RelationTriple(one.head, one.type, one.tail) for one in document.relations)
    return render(Extraction(entities, triples))
