"""CSV: cells with spans, as JSON or as Python writes them, and tables that are none."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from corpora.own.reading import mentions, read, relations

TEXT = "BRAF, then\n5 mg."
SPANS = '[{"start": 0, "end": 4, "label": "Gene", "id": "g"}, {"start": 11, "end": 15, "label": "Dose", "id": "d"}]'


def table(*rows: Any, delimiter: str = ",") -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    return stream.getvalue()


@pytest.mark.parametrize(
    "spans",
    [SPANS, SPANS.replace('"', "'"), '[[0, 4, "Gene"], [11, 15, "Dose"]]', "[(0, 4, 'Gene'), (11, 15, 'Dose')]"],
)
def test_a_cell_is_json_or_what_python_writes(spans: str) -> None:
    found, faults, _ = read("csv", {"a.csv": table(["text", "spans"], [TEXT, spans])})
    assert (faults, mentions(found)) == ([], [[("BRAF", "Gene"), ("5 mg", "Dose")]])


def test_relations_name_spans_by_their_ids_or_places() -> None:
    for spans, ends in ((SPANS, ("g", "d")), ('[[0, 4, "Gene"], [11, 15, "Dose"]]', (0, 1))):
        cell = [{"head": ends[0], "tail": ends[1], "label": "given_at"}]
        found, faults, _ = read("csv", {"a.csv": table(["text", "spans", "relations"], [TEXT, spans, cell])})
        assert (faults, relations(found)) == ([], [[("braf", "given_at", "5 mg")]])


def test_columns_have_the_names_that_the_block_gives_them() -> None:
    content = "\ufeff" + table(["note", "marks", "part"], [TEXT, "", "dev"], delimiter="\t")
    fields = {"text": "note", "spans": "marks"}
    found, faults, _ = read("csv", {"a.tsv": content}, fields=fields, split={"field": "part"})
    assert (faults, found.documents[0].split) == ([], "validation")
    _, faults, _ = read("csv", {"a.tsv": content})
    assert faults == ["a.tsv:1: there is no column 'text', but note, marks, part."]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (table(["text", "spans"], [TEXT, "[]"], ["b", "[{]"]), "a.csv:4: found '[{]' under 'spans'; expected a list"),
        (table(["text", "spans"], [TEXT, "4"]), "a.csv:2: found '4' under 'spans'; expected a list."),
        (table(["text", "spans"], [TEXT, "[]", "more"]), "a.csv:2: found 3 cells; expected 2."),
        (table(["text", "spans"], [TEXT, "[[0, 4]]"]), "a.csv:2: found a span of 2 values"),
        ('text,spans\n"a" b,[]\n', "a.csv:2: no readable CSV"),
        ("", "a.csv:1: there is no column 'text', but none."),
    ],
)
def test_a_row_that_is_none_is_named_with_the_line_where_it_begins(content: str, fault: str) -> None:
    _, faults, _ = read("csv", {"a.csv": content})
    assert faults[0].startswith(fault)


def test_a_cell_that_is_nested_without_end_is_refused() -> None:
    _, faults, _ = read("csv", {"a.csv": table(["text", "spans"], [TEXT, "[" * 100_000])})
    assert faults[0].startswith("a.csv:2: found '[[[")
