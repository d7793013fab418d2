"""Rows of a predictions file, and the whole documents that were read with them."""

from __future__ import annotations

from typing import Any

from odin_slm.tasks.rows import documents_of


def document(name: str, *outputs: str, records: int = 1) -> dict[str, Any]:
    return {"id": name, "gold": ["a"] * records, "windows": [{"output": output} for output in outputs]}


def test_documents_of_another_model_are_not_taken_for_those_of_a_predictions_file() -> None:
    rows = [{"id": "a", "document_id": "a", "prediction": "1"}, {"id": "b#w1", "document_id": "b", "prediction": "2"}]
    read = [document("a", "1"), document("b", "3", "4", records=2), document("c", "5", "6")]
    assert documents_of(rows, read) == read
    assert documents_of([{**rows[0], "prediction": "7"}, rows[1]], read) == []
    assert documents_of(rows[1:], read) == [], "the file holds fewer records"
    assert documents_of(rows, []) == []
