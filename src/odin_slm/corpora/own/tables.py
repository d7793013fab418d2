"""Tables of texts and spans: CSV and TSV with a header, and Parquet, whose rows come as JSON Lines.

The column of spans holds a list of objects with ``start``, ``end``, ``label`` and perhaps ``text`` and ``id``, or of
such triples; in CSV as JSON, or as Python writes a list (pandas does). The column of relations holds a list of objects
with ``head``, ``tail`` (ids of spans, or their places from 0) and ``label``.
"""

from __future__ import annotations

import ast
import csv
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from odin_slm.core import json_text
from odin_slm.corpora.faults import Faults
from odin_slm.corpora.json_values import JsonValues, line_of, rows
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.corpora.own.given import GivenMention, GivenRelation, GivenText, fault
from odin_slm.corpora.own.spans import identifier
from odin_slm.corpora.parsed import numbered_lines

_CELL = 2**31 - 1


def read_csv(files: Mapping[str, str], block: OwnCorpus, faults: Faults) -> Iterator[GivenText]:
    """Read a folder of CSV or TSV; see :data:`odin_slm.corpora.own.READERS`."""
    for name in sorted(files):
        for _ in numbered_lines(name, files[name], faults):
            pass  # refuses lone surrogates
        with faults.collected():
            for number, row in _csv_rows(name, files[name], block, faults):
                with faults.collected("document"):
                    yield _text(name, number, row, block, faults, many=len(files) > 1)


def read_parquet(files: Mapping[str, str], block: OwnCorpus, faults: Faults) -> Iterator[GivenText]:
    """Read a folder of Parquet; see :data:`odin_slm.corpora.own.READERS`. A line is a row."""
    for name in sorted(files):
        with faults.collected():
            for number, row in rows(name, files[name], "a row of a table", faults):
                with faults.collected("document"):
                    _require_columns(name, row, block)
                    yield _text(name, number, row, block, faults, many=len(files) > 1)


def _csv_rows(name: str, content: str, block: OwnCorpus, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_CELL)
    delimiter = "\t" if name.endswith(".tsv") else ","
    reader = csv.reader(io.StringIO(content.removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _require_columns(name, dict.fromkeys(header), block)
        before = reader.line_num
        for cells in reader:
            number, before = before + 1, reader.line_num
            with faults.collected("document"):
                if cells and len(cells) != len(header):
                    raise fault(
                        f"found {len(cells)} cells; expected {len(header)}",
                        f"{name}:{number}",
                        f"Quote cells that hold {delimiter!r}.",
                    )
                if cells:
                    yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise fault(f"no readable CSV ({error})", f"{name}:{reader.line_num}", "Mend the quotes there.") from None


def _require_columns(name: str, row: Any, block: OwnCorpus) -> None:
    for column in (block.fields.text, block.fields.spans):
        if not isinstance(row, dict) or column not in row:
            known = ", ".join(f"{one}"[:40] for one in list(row)[:12]) if isinstance(row, dict) else "none"
            raise fault(
                f"there is no column {column!r}, but {known or 'none'}", f"{name}:1", "Name another one by fields."
            )


def _text(name: str, number: int, row: dict[str, Any], block: OwnCorpus, faults: Faults, *, many: bool) -> GivenText:
    fields, values = block.fields, JsonValues(f"{name}:{line_of(row, number)}")
    text = GivenText(identifier(name, number, row.get(fields.id), many=many), "", name, values.where)
    text.text = values.string(row, fields.text, "the row")
    if block.split and block.split.field:
        found = row.get(block.split.field)
        text.split = found if isinstance(found, str) else None
    for place, span in enumerate(_list(values, row, fields.spans)):
        with faults.collected("mention"):
            text.mentions.append(_mention(values, place, span))
    for relation in _list(values, row, fields.relations):
        with faults.collected("relation"):
            ends = [values.get(relation, key, "a relation") for key in ("head", "tail")]
            kind = values.string(relation, "label", "a relation")
            text.relations.append(GivenRelation(kind, f"{ends[0]}", f"{ends[1]}", values.where))
    return text


def _mention(values: JsonValues, place: int, span: Any) -> GivenMention:
    if isinstance(span, list | tuple):
        if len(span) != 3:
            raise values.error(f"found a span of {len(span)} values; expected start, end and label")
        span = {"start": span[0], "end": span[1], "label": span[2]}
    begin, end = (values.number(span, key, "a span") for key in ("start", "end"))
    surface = values.string(span, "text", "a span") if span.get("text") is not None else None
    key = f"{place}" if span.get("id") is None else f"{span['id']}"
    return GivenMention(key, begin, end, values.string(span, "label", "a span"), surface, values.where)


def _list(values: JsonValues, row: dict[str, Any], column: str) -> list[Any]:
    """Return the list in a cell; nothing where it is empty."""
    found = row.get(column)
    if isinstance(found, str) and found.strip():
        found = _decoded(values, found, column)
    if found is None or found == "":
        return []
    if not isinstance(found, list | tuple):
        raise values.error(f"found {str(found)[:40]!r} under {column!r}; expected a list")
    return list(found)


def _decoded(values: JsonValues, cell: str, column: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Python thinks about a text in the cell
        for decode in (json_text.loads, ast.literal_eval):
            try:
                json_text.require_shallow(cell)  # brackets of Python nest as those of JSON do
                return decode(cell.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
    raise values.error(f"found {cell[:40]!r} under {column!r}; expected a list in JSON")
