"""Exports of Prodigy, doccano, spaCy and Label Studio beyond the plain ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corpora.own.reading import mentions, read, relations
from odin_slm.review.exports import FORMATS
from review_values import TEXT as REVIEWED
from review_values import TYPES, tasks

TEXT = "BRAF got 5 mg."
GENE, DOSE = {"start": 0, "end": 4, "label": "Gene"}, {"start": 9, "end": 13, "label": "Dose"}


def lines(*rows: Any) -> dict[str, str]:
    return {"a.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}


def task(*results: Any, **changes: Any) -> dict[str, str]:
    value = {"id": 1, "data": {"text": TEXT}, "annotations": [{"result": list(results)}], **changes}
    return {"a.json": json.dumps([value], indent=1)}


def region(key: str, begin: int, end: int, *labels: str) -> dict[str, Any]:
    return {"id": key, "type": "labels", "value": {"start": begin, "end": end, "labels": list(labels)}}


def test_prodigys_relations_name_tokens_where_they_name_no_spans() -> None:
    spans = [{**GENE, "token_start": 0, "token_end": 0}, {**DOSE, "token_start": 2, "token_end": 3}]
    row = {"text": TEXT, "spans": spans, "relations": [{"head": 0, "child": 3, "label": "given_at"}]}
    found, faults, _ = read("jsonl", lines(row))
    assert (faults, relations(found)) == ([], [[("braf", "given_at", "5 mg")]])
    row["relations"] = [{"head": 1, "child": 3, "label": "given_at"}]
    assert read("jsonl", lines(row))[1] == ["a.jsonl:1: the relation's head is token 1, which no span has."]


def test_prodigys_answers_other_than_accept_do_not_count() -> None:
    rows = [
        {"text": f"{TEXT} {answer}", "spans": [GENE], "answer": answer} for answer in ("accept", "reject", "ignore")
    ]
    found, faults, _ = read("jsonl", lines(*rows))
    assert (faults, len(found.documents)) == ([], 1)
    assert found.dropped == {"document: answered ignore": 1, "document: answered reject": 1}


def test_of_label_studios_annotations_the_first_that_was_not_cancelled_counts() -> None:
    annotations = [
        {"was_cancelled": True, "result": [region("a", 0, 4, "Gene")]},
        {"was_cancelled": False, "result": [region("b", 9, 13, "Dose")]},
        {"result": []},
    ]
    found, faults, _ = read("jsonl", task(annotations=annotations))
    assert (faults, mentions(found)) == ([], [[("5 mg", "Dose")]])
    assert found.dropped == {"annotation: another one of its document": 1}
    found, _, _ = read("jsonl", task(annotations=[{"was_cancelled": True, "result": []}]))
    assert (found.documents, found.dropped) == ([], {"document: without an annotation": 1})


def test_a_task_on_its_way_to_label_studio_is_told_to_come_back_as_an_export() -> None:
    files = {"tasks.json": FORMATS["label_studio"](tasks(), TYPES)["tasks.json"]}
    _, faults, collected = read("jsonl", files)
    assert len(faults) == len(tasks())
    assert "no 'annotations': it was made for Label Studio, and was not exported from it" in faults[0]
    assert "Export the project as JSON, and name that file" in collected.listed[0].fix


def test_the_id_in_a_tasks_data_goes_before_label_studios_number() -> None:
    found, _, _ = read("jsonl", task(data={"id": "note-1", "text": TEXT}))
    assert [document.id for document in found.documents] == ["notes-note-1"]


@pytest.mark.parametrize("form", ["prodigy", "brat", "label_studio"])
def test_what_a_review_writes_is_read_back(form: str) -> None:
    files = FORMATS[form](tasks(), TYPES)
    if form == "label_studio":  # the annotator has accepted the prediction
        rows = [{**row, "annotations": row["predictions"]} for row in json.loads(files["tasks.json"])]
        files = {"export.json": json.dumps(rows)}
    names = {"entities": TYPES["entities"], "relations": {"causes": {"head": ["Drug"], "tail": ["Symptom"]}}}
    found, faults, _ = read("brat" if form == "brat" else "jsonl", files, **names)
    assert faults == []
    first, second = found.documents
    assert (first.id, first.text, second.text) == ("notes-note-1", REVIEWED, "Nothing was found.")
    marked = [("Aspirin", 2), ("rash", 19), ("rash", 29), ("rash and\nfever", 29), ("aspirin", 51)]
    assert [(mention.text, mention.begin) for mention in first.mentions] == marked
    assert relations(found)[0] == [("aspirin", "causes", "rash"), ("aspirin", "causes", "rash and fever")]


def test_label_studios_results_that_are_no_spans_are_counted() -> None:
    related = {"type": "relation", "from_id": "d", "to_id": "g", "direction": "left", "labels": ["given_at"]}
    choice = {"id": "c", "type": "choices", "value": {"choices": ["good"]}}
    found, faults, _ = read("jsonl", task(region("g", 0, 4, "Gene"), region("d", 9, 13, "Dose"), related, choice))
    assert (faults, relations(found)) == ([], [[("braf", "given_at", "5 mg")]])
    assert found.dropped == {"result: choices": 1}


def test_spacys_span_groups_are_counted() -> None:
    row = {"text": TEXT, "ents": [GENE], "spans": {"sc": [DOSE], "empty": []}}
    found, faults, _ = read("jsonl", lines(row))
    assert (faults, mentions(found)) == ([], [[("BRAF", "Gene")]])
    assert found.dropped == {"span group: not read": 1}


def test_a_span_that_stands_twice_is_one() -> None:
    found, faults, _ = read("jsonl", lines({"text": TEXT, "spans": [GENE, GENE]}))
    assert (faults, mentions(found), found.dropped) == ([], [[("BRAF", "Gene")]], {"mention: repeated": 1})


def test_tools_may_be_mixed_and_a_file_may_be_a_list() -> None:
    rows = [{"text": TEXT, "label": [[0, 4, "Gene"]]}, [TEXT, {"entities": [[9, 13, "Dose"]]}]]
    whole = {"a.json": json.dumps(rows)}
    for files in (lines(*rows), whole, {"a.json": lines(*rows)["a.jsonl"]}):
        found, faults, _ = read("jsonl", files)
        assert (faults, mentions(found)) == ([], [[("BRAF", "Gene")], [("5 mg", "Dose")]])


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": TEXT}, "a.jsonl:1: found text; expected texts with spans"),
        ({"text": TEXT, "spans": [{**GENE, "end": 40}]}, "a.jsonl:1: offsets 0-40 lead to no characters"),
        ({"text": TEXT, "spans": [{**GENE, "end": "4"}]}, "a.jsonl:1: found '4' under 'end' of a span"),
        ({"text": TEXT, "spans": [{**GENE, "label": None}]}, "a.jsonl:1: found the label 'None'; expected a name"),
        ({"text": TEXT, "spans": None}, "a.jsonl:1: found NoneType under 'spans' of a row; expected a list"),
        ({"text": TEXT, "label": [[0, 4]]}, "a.jsonl:1: found a span of 2 values"),
        ({"text": 4, "label": []}, "a.jsonl:1: found int under 'text' of a row"),
        ({"label": []}, "a.jsonl:1: a row has no 'text'"),
        (["a"], "a.jsonl:1: found list; expected texts with spans"),
        ({"data": {"text": TEXT}, "annotations": {}}, "a.jsonl:1: found dict under 'annotations' of a task"),
        (
            {"text": TEXT, "entities": [], "relations": [{"from_id": 1, "to_id": 2, "type": "given_at"}]},
            "a.jsonl:1: given_at relates the mention '1', which is not there.",
        ),
    ],
)
def test_a_row_that_is_none_is_named(row: Any, fault: str) -> None:
    _, faults, _ = read("jsonl", lines(row))
    assert len(faults) == 1
    assert faults[0].startswith(fault)


def test_the_line_of_a_region_is_named_within_its_task() -> None:
    files = task(region("g", 0, 4, "Gene"), region("d", 9, 90, "Dose"))
    _, (fault,), _ = read("jsonl", files)
    line = files["a.json"][: files["a.json"].index('"id": "d"')].count("\n")
    assert fault.startswith(f"a.json:{line}: offsets 9-90")
