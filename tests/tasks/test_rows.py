"""Rows of a predictions file, and the whole documents that were read with them."""

from __future__ import annotations

from typing import Any

import pytest

from odin_slm.tasks.rows import documents_of
from odin_slm.tasks.rows import test_set_of as describe


def document(name: str, *outputs: str, records: int = 1) -> dict[str, Any]:
    return {"id": name, "gold": ["a"] * records, "windows": [{"output": output} for output in outputs]}


def test_documents_of_another_model_are_not_taken_for_those_of_a_predictions_file() -> None:
    rows = [{"id": "a", "document_id": "a", "prediction": "1"}, {"id": "b#w1", "document_id": "b", "prediction": "2"}]
    read = [document("a", "1"), document("b", "3", "4", records=2), document("c", "5", "6")]
    assert documents_of(rows, read) == read
    assert documents_of([{**rows[0], "prediction": "7"}, rows[1]], read) == []
    assert documents_of(rows[1:], read) == [], "the file holds fewer records"
    assert documents_of(rows, []) == []


@pytest.mark.parametrize(("source", "synthetic"), [("letters", False), ("ade", True)])
def test_a_long_number_of_somebodys_own_corpus_is_not_taken_for_the_generators(source: str, synthetic: bool) -> None:
    row = {"id": "a", "document_id": f"{source}-991234567", "source": source, "input": "x", "gold": "y"}
    assert describe([row], "letter")["synthetic"] is synthetic
