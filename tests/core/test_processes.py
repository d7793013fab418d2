"""Several processes make what one makes, and say what went wrong in one of them."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest

from odin_slm.config.parameters import IngestionParams, TaskParams
from odin_slm.core import processes
from odin_slm.core.errors import DeviceMemoryError
from odin_slm.core.json_text import loads
from odin_slm.core.processes import mapped
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.dataprep.quality import assess
from odin_slm.dataprep.splitting import near_duplicates
from odin_slm.models.base_model import resolve_base_model
from odin_slm.pipelines.ingestion.nodes import write_records
from odin_slm.tasks.extraction.records import make_record
from odin_slm.tasks.extraction.task import ExtractionTask

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(processes, "_WORTH", 50)
    monkeypatch.setattr(processes, "AT_ONCE", 7)


def test_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"Patient {n // 3} received {n // 3 * 17} mg of aspirin and recovered on day {n}." for n in range(100)]
    shared = list(near_duplicates(texts, range(100), threshold=0.7, seed=1))
    monkeypatch.setattr(processes, "_WORTH", 1000)
    assert shared == list(near_duplicates(texts, range(100), threshold=0.7, seed=1))
    assert {(0, 1), (3, 5)} <= {(left, right) for left, right, _ in shared}


@pytest.mark.parametrize("overflow", ["window", "drop"])
def test_processes_write_what_one_writes(overflow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document.to_dict() for document in generate(100, seed=3, corpus="bc5cdr")]
    base = resolve_base_model("data/06_models/odin-nano", root=ROOT)
    params = IngestionParams(max_tokens=130, overflow=overflow)
    records, report = write_records(documents, base, TaskParams(), params)
    monkeypatch.setattr(processes, "_WORTH", 1000)
    assert (list(records), report) == write_records(documents, base, TaskParams(), params)
    assert report["documents_windowed" if overflow == "window" else "documents_dropped"]


def test_processes_judge_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskParams().task()
    records = [make_record(document, instruction="Extract.") for document in generate(60, seed=3, corpus="bc5cdr")]
    broken = [{**records[0], "output": "nothing"}, {**records[1], "input": "short"}, records[2]]
    splits = {"train": records + broken, "validation": records[:20], "test": []}
    judged = assess(splits, {}, task, profile="publishing")
    monkeypatch.setattr(processes, "_WORTH", 1000)
    assert judged == assess(splits, {}, task, profile="publishing")
    failed = {check["name"]: check["failed"] for check in judged["checks"]}
    assert failed["outputs parse and render back"] == 1
    assert failed["record ids are unique"] == 20


def test_an_error_of_a_process_reaches_who_asked() -> None:
    with pytest.raises(TypeError, match="list"):
        list(mapped(partial(partial, loads), range(100), 100))


def test_a_process_that_is_ended_is_reported() -> None:
    with pytest.raises(DeviceMemoryError, match="has ended with status 1"):
        list(mapped(partial(os._exit, 1), range(100), 100))


@pytest.mark.parametrize("module", ["__main__", __name__], ids=["notebook", "function"])
def test_what_no_other_process_can_import_is_used_in_this_one(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Defined(ExtractionTask):
        """As a cell of a notebook defines one, or a function does."""

    Defined.__module__ = module
    if module == "__main__":
        Defined.__qualname__ = "Defined"
        monkeypatch.setattr(sys.modules["__main__"], "Defined", Defined, raising=False)
    records = [make_record(document, instruction="Extract.") for document in generate(120, seed=3, corpus="bc5cdr")]
    splits = {"train": records, "validation": [], "test": []}
    judged = assess(splits, {}, Defined(), profile="publishing")
    assert judged == assess(splits, {}, ExtractionTask(), profile="publishing")
