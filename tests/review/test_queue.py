"""Extractions as lines of a queue, and what is no line of one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from odin_slm.core.errors import CorpusFormatError
from odin_slm.review.exports import queue
from odin_slm.review.queue import read_queue, task_fault
from review_values import TEXT, TYPES, tasks


def test_an_extraction_becomes_spans_and_relations_between_the_nearest_of_them() -> None:
    task = tasks()[0]
    assert [(TEXT[s["start"] : s["end"]], s["label"], s["confidence"]) for s in task["spans"]] == [
        ("Aspirin", "Drug", 0.9),
        ("rash", "Symptom", 0.5),
        ("rash", "Symptom", 0.5),
        ("rash and\nfever", "Symptom", 0.4),
        ("aspirin", "Drug", 0.9),
    ]
    joined = [(r["head_span"]["start"], r["label"], r["child_span"]["end"], r["confidence"]) for r in task["relations"]]
    assert joined == [(2, "causes", 23, 0.8), (51, "causes", 43, 0.3)]
    assert task["answer"] is None


def test_a_queue_that_is_read_is_the_one_that_was_written() -> None:
    assert list(read_queue("queue.jsonl", queue(tasks(), TYPES)["queue.jsonl"])) == tasks()
    assert not [task_fault(task, TYPES, task["text"]) for task in tasks() if task_fault(task, TYPES, task["text"])]


def span(begin: Any, end: Any, label: Any = "Drug") -> dict[str, Any]:
    return {"start": begin, "end": end, "label": label}


ONE, OTHER = span(2, 9), span(19, 23, "Symptom")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"text": TEXT + "."}, "text was changed"),
        ({"text": 3}, "'id' and 'text'"),
        ({"answer": "perhaps"}, "'perhaps'; expected accept"),
        ({"spans": {}}, "lists"),
        ({"spans": [3]}, "with a 'label'"),
        ({"spans": [span(0, 999)]}, "from 0 to 999; the text has"),
        ({"spans": [span(5, 5)]}, "from 5 to 5"),
        ({"spans": [span(True, 5)]}, "from True"),
        ({"spans": [span(0, 5, "Gene")]}, "'Gene'; expected one of Drug, Symptom"),
        ({"spans": [ONE, ONE]}, "there twice"),
        ({"relations": [{"label": "causes", "head_span": ONE, "child_span": span(0, 1)}]}, "does not join two"),
        ({"relations": [{"label": "causes", "head_span": ONE, "child_span": ONE}]}, "does not join two"),
        ({"relations": [{"label": "causes"}]}, "expected relations with"),
        ({"relations": [3]}, "expected relations with"),
        ({"relations": [{"label": "causes", "head_span": OTHER, "child_span": ONE}]}, "Symptom causes Drug, which no"),
        ({"relations": [{"label": "heals", "head_span": ONE, "child_span": OTHER}]}, "heals"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(change: dict[str, Any], fault: str) -> None:
    task = {"id": "note-1", "text": TEXT, "spans": [ONE, OTHER], "relations": [], "answer": None, **change}
    assert fault in task_fault(task, TYPES, TEXT)


UNWRITABLE = ('{"id": "a", "text": "b", "meta": {"uncertainty": NaN}}', r'{"id": "a", "text": "b\ud800"}')
LINES = ("{", "[1]", "[" * 100_000, '{"id": "note-1", "text": "again"}', *UNWRITABLE)


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_is_none_is_named(line: str) -> None:
    good = json.dumps({"id": "note-1", "text": "Cough."})
    with pytest.raises(CorpusFormatError, match=r"queue\.jsonl:3: "):
        list(read_queue("queue.jsonl", f"{good}\n\n{line}\n"))
