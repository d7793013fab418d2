"""From documents and a model to files that somebody corrects; what they may hold, and what is never replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DatasetError

from odin_slm.config.parameters import ExtractionParams, ReviewParams
from odin_slm.core.errors import MissingInputError, ReviewError
from odin_slm.core.hashing import canonical_jsonl, sha256_text
from odin_slm.datasets.documents import DocumentsDataset
from odin_slm.datasets.folders import ReviewDataset
from odin_slm.datasets.json_files import CanonicalJSONDataset
from odin_slm.pipelines.review.nodes import gather_candidates
from odin_slm.review.queue import read_queue, task_fault

SMALL = {"max_new_tokens": 32, "window_tokens": 96, "batch_size": 8}
MODEL = "data/06_models/odin-nano"


@pytest.fixture
def review(run: Callable[..., Any], project: Path) -> Callable[..., Path]:
    """Run the pipeline on the tiny base; return the folder that it writes."""

    def made(**review: Any) -> Path:
        given = {name: review.pop(name) for name in ("documents", "reviews") if name in review}
        run("review", params={"model": MODEL, "extraction": SMALL, "review": review, **given})
        return project / given.get("reviews", "data/07_model_output/test/review")

    return made


def test_data_that_is_not_there_may_be_that_of_another_experiment(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no folder demo\. Run the pipelines .* is read with --env NAME"):
        CanonicalJSONDataset(filepath=str(tmp_path / "demo/splits.json")).load()


def test_training_documents_are_chosen_and_no_others(
    run: Callable[..., Any], review: Callable[..., Path], project: Path
) -> None:
    run("data", to_nodes=["place_documents"])
    folder = review(count=6, candidates=12, seed=5)
    manifest = json.loads((folder / "review.json").read_text())
    tasks = list(read_queue("queue.jsonl", (folder / "queue.jsonl").read_text()))
    splits = json.loads((project / "data/04_feature/test/splits.json").read_text())
    assert {splits[task["meta"]["from"]]["split"] for task in tasks} == {"train"}
    assert [task["id"] for task in tasks] == list(manifest["documents"])
    assert not [fault for task in tasks if (fault := task_fault(task, manifest["types"], task["text"]))]
    reasons = [task["meta"]["reason"] for task in tasks]
    assert reasons == ["uncertain"] * 3 + ["diverse"] * 2 + ["random"]
    for task in tasks:
        known = manifest["documents"][task["id"]]
        assert known["text_sha256"] == sha256_text(task["text"])
        assert known["pmid"] == splits[task["meta"]["from"]]["pmid"]
        assert (task["meta"]["model"], task["meta"]["made"]) == (manifest["model"]["digest"], manifest["made"])
    assert any(task["spans"] for task in tasks)
    assert manifest["parameters"]["review"]["mix"] == {"uncertain": 0.5, "diverse": 0.25, "random": 0.25}
    assert manifest["parameters"]["review"]["seed"] == 5
    assert manifest["types"]["entities"]

    (folder / "queue.jsonl").write_text((folder / "queue.jsonl").read_text().replace("null}", '"accept"}', 1))
    with pytest.raises(DatasetError, match=r"queue\.jsonl holds corrections.*--params reviews=DIR"):
        review(count=6, candidates=12, seed=5)


HELD = "A woman of 54 years developed a rash and fever after the second dose of enalapril."
LEARNT = "Cough and rash developed after the second dose of lisinopril in a man of 61 years."
DATA = [
    {"id": "t", "source": "mine", "pmid": "1", "split": "test", "text": HELD},
    {"id": "l", "source": "mine", "pmid": "2", "split": None, "text": LEARNT},
    {"id": "s", "source": "synthetic", "pmid": "3", "split": "train", "text": "Invented, and no use to an annotator."},
]
PLACES = {
    "t": {"split": "test", "group": "1"},
    "l": {"split": "train", "group": "2"},
    "s": {"split": "train", "group": "3"},
}


def test_new_texts_are_candidates_unless_they_are_held_out(tmp_path: Path) -> None:
    texts = [f"Patient {n} took enalapril 😀 and had {sign}." for n, sign in enumerate(("a cough", "fever", "no rash"))]
    rows = [{"text": text} for text in (*texts, HELD, HELD.replace("54", "55"))]
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "bad"}]))

    def candidates() -> dict[str, Any]:
        read = DocumentsDataset(source={"path": str(file)}, optional=True).load()
        return gather_candidates(read, DATA, PLACES, ReviewParams(), ExtractionParams())

    found = candidates()
    assert [one["text"] for one in found["documents"]] == texts
    assert found["left_out"] == {"unreadable": 1, "held_out": 0, "near_duplicate_of_held_out": 2, "repeated": 0}
    file.write_text(json.dumps(rows[3]) + "\n")
    with pytest.raises(MissingInputError, match=r"no document may be reviewed \(left out: 1 near"):
        candidates()


def test_training_documents_are_the_pool_where_nothing_is_named() -> None:
    named = DocumentsDataset(source={"path": None}, optional=True).load()
    found = gather_candidates(named, DATA, PLACES, ReviewParams(), ExtractionParams())
    assert [(one["id"], one["source"], one["pmid"], one["split"]) for one in found["documents"]] == [
        ("l", "mine", "2", None)
    ]


def test_a_review_without_corrections_is_replaced(tmp_path: Path) -> None:
    dataset = ReviewDataset(filepath=str(tmp_path / "review"))
    for text in ("one", "other"):
        dataset.save(lambda made, text=text: ({"a.txt": text, "b.txt": text}, {"made": made}))  # type: ignore[misc]
    assert (tmp_path / "review/a.txt").read_text() == "other"
    assert set(dataset.load()["files"]) == {"a.txt", "b.txt"}
    for change in (lambda file: file.write_text("mine"), lambda file: file.with_name("c.ann").write_text("")):
        change(tmp_path / "review/a.txt")
        with pytest.raises(DatasetError, match="is not replaced"):
            dataset.save(lambda made: ({"a.txt": ""}, {}))
        (tmp_path / "review/a.txt").write_text("other")


OWN = """
own_corpora:
  reviewed:
    folder: data/07_model_output/test/review
    files: [queue.jsonl]
    format: jsonl
    review: data/07_model_output/test/review/review.json
    entities: [Drug, Disease, Symptom]
    relations:
      causes: {head: [Drug], tail: [Disease, Symptom]}
      treats: {head: [Drug], tail: [Disease, Symptom]}
      associated_with: {head: [Drug], tail: [Drug, Disease, Symptom]}
      interacts_with: {head: [Drug], tail: [Drug]}
"""


def test_corrections_come_back_in_the_place_of_what_they_correct(
    run: Callable[..., Any], review: Callable[..., Path], project: Path
) -> None:
    run("data", to_nodes=["place_documents"])
    queue = review(count=4, candidates=8) / "queue.jsonl"
    tasks = [{**json.loads(line), "answer": "accept"} for line in queue.read_text().splitlines()]
    tasks[3]["answer"] = "ignore"
    queue.write_text(canonical_jsonl(tasks))
    with (project / "conf/test/globals.yml").open("a") as stream:
        stream.write(OWN)
    params = {"ingestion": {"corpora": ["ade", "bc5cdr", "biored", "reviewed"]}}
    before = json.loads((project / "data/04_feature/test/splits.json").read_text())
    run("data", params=params, to_nodes=["place_documents"])
    after = json.loads((project / "data/04_feature/test/splits.json").read_text())
    for task in tasks[:3]:
        original, corrected = after[task["meta"]["from"]], after[f"reviewed-{task['id']}"]
        assert (original["split"], original["rule"]) == (None, "corrected")
        assert (corrected["split"], corrected["pmid"]) == ("train", original["pmid"])
    corrected = {task["meta"]["from"] for task in tasks[:3]}
    assert {name: after[name] for name in before if name not in corrected} == {
        name: place for name, place in before.items() if name not in corrected
    }
    report = json.loads((project / "data/02_intermediate/test/own_parse_report.json").read_text())
    found = report["corpora"]["reviewed"]
    assert found["review"]["model"]["digest"] == tasks[0]["meta"]["model"]
    assert found["review"]["made"] == tasks[0]["meta"]["made"]
    assert set(found["inputs"]) == {"queue.jsonl", "review.json"}

    lines = (project / "data/03_primary/test/documents.jsonl").read_text().splitlines()
    held = next(one for one in map(json.loads, lines) if after[one["id"]]["split"] == "test")
    queue.write_text(canonical_jsonl([*tasks, {**tasks[0], "id": held["id"], "text": held["text"], "spans": []}]))
    with pytest.raises(ReviewError, match=rf"{held['id']}: it is none of the 4 documents"):
        run("ingestion", params=params)
    tasks[0] = {**tasks[0], "text": tasks[0]["text"] + " Edited."}
    queue.write_text(canonical_jsonl(tasks))
    with pytest.raises(ReviewError, match="its text is not the one that was given"):
        run("ingestion", params=params)
