"""Files of documents, read record by record: JSON Lines, CSV, TSV, Parquet, plain text and PubMed XML, also in gzip.

Whatever is wrong with a record costs the record, whatever is wrong with a file costs what is behind it, and neither
costs the job.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from odin_slm.core import json_text
from odin_slm.core.document import GivenDocument
from odin_slm.core.errors import StorageError
from odin_slm.corpora.pubmed import citations
from odin_slm.datasets.sources.texts import wide_encoding
from odin_slm.datasets.storage import StoredFile

_Record = tuple[str | None, str, str | None]  # id, text, error
_CELL = 2**31 - 1
_LARGEST = 32 * 2**20
"""Bytes that one record may take, unpacked: a megabyte of .gz may hold a text of a gigabyte."""


def form_of(name: str) -> str | None:
    """Return the suffix that says how a file is read, without ``.gz``; None where it is of no known form."""
    name = name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in FORMS and not (suffix == ".parquet" and name.endswith(".gz")) else None


class _Bounded(io.RawIOBase):
    """A stream of which no one record may take too many bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.left = _LARGEST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._stream.read(min(len(buffer), self.left + 1))
        self.left -= len(found)
        if self.left < 0:
            raise ValueError(f"a record has more than {_LARGEST // 2**20} MiB")
        buffer[: len(found)] = found
        return len(found)


def read_file(file: StoredFile, text_field: str, id_field: str) -> Iterator[GivenDocument]:
    """Iterate over the documents of a file, in constant memory.

    Args:
        file: The file; its name stands in what is yielded.
        text_field: Field or column that holds the text.
        id_field: Field or column that holds the id.

    Yields:
        A document per record, with its error in place of the text where it cannot be read. A file without any, or one
        that cannot be read on, ends with one that says so.

    Raises:
        StorageError: The storage fails: what is behind that would be lost, and may be there the next time.
    """
    number, source = 0, _encodable(file.name)
    fault = "there is no document in this file."
    try:
        for name, text, error in _records(file, text_field, id_field):
            number += 1
            if error is None and not text.strip():
                error = "the text is blank."
            if error is None and _encodable(text) != text:
                error = "the text is not UTF-8, or holds half a character."
            name = _encodable(name) if name else f"{source}:{number}"
            yield GivenDocument(name, source, number, text if error is None else "", error and _encodable(error))
        if number:
            return
    except StorageError:
        raise
    except Exception as error:  # parsers of five formats; whatever they raise costs the rest of this file, not the job
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        ours = type(error) is ValueError  # a parser's own are of a class of their own
        fault = f"{reason}." if ours else f"the file cannot be read from here on ({type(error).__name__}: {reason})."
    yield GivenDocument(f"{source}:{number + 1}", source, number + 1, "", _encodable(fault))


def _records(file: StoredFile, text_field: str, id_field: str) -> Iterator[_Record]:
    """Iterate over the records of a file in any form; see :func:`read_file` for what goes wrong."""
    form = form_of(file.name) or ""
    with file.open() as stored:
        opened: Any = gzip.open(stored) if file.name.lower().endswith(".gz") else stored  # noqa: SIM115
        if form == ".parquet":
            yield from _parquet(opened, text_field, id_field)
            return
        bounded = _Bounded(opened)
        stream: Any = io.BufferedReader(bounded, 2**16)
        head = stream.peek(4)[:4]
        if not head:
            raise ValueError("the file is empty")
        wide = wide_encoding(head)
        if wide and form != ".xml":
            raise ValueError(f"the text is {wide.upper()}, not UTF-8: convert it with iconv -f {wide} -t utf-8")
        for record in FORMS[form](stream, text_field, id_field):
            yield record
            bounded.left = _LARGEST


def _encodable(name: str) -> str:
    """Return a name that can be written as UTF-8; a lone surrogate (a file name in Latin-1) becomes its escape."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def _json_lines(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
    for line in stream:
        if not line.strip():
            continue
        try:
            values = json_text.loads(line)
        except ValueError as error:
            yield None, "", f"not JSON ({error})."
            continue
        yield _fields(values, text_field, id_field)


def _table(delimiter: str) -> Callable[[IO[bytes], str, str], Iterator[_Record]]:
    def read(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
        csv.field_size_limit(_CELL)
        # A byte that is no UTF-8 costs its record, not the file.
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        if text_field not in (reader.fieldnames or ()):
            raise ValueError(_no_text("column", text_field, reader.fieldnames or ()))
        for row in reader:
            name, text, error = _fields(row, text_field, id_field)
            if any(row.pop(None, ())):  # an unquoted delimiter has cut a cell, perhaps the text
                error = (
                    f"more cells than the {len(reader.fieldnames or ())} columns: quote cells that hold {delimiter!r}."
                )
            yield name, text, error

    return read


def _parquet(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(stream)
    known = file.schema_arrow.names
    if text_field not in known:
        raise ValueError(_no_text("column", text_field, known))
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema == text_field and column.total_uncompressed_size > group.num_rows * _LARGEST:
                raise ValueError(f"a record has more than {_LARGEST // 2**20} MiB")
    columns = [name for name in (text_field, id_field) if name in known]
    for part in file.iter_batches(batch_size=512, columns=columns):
        for row in part.to_pylist():
            yield _fields(row, text_field, id_field)


def _plain(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
    yield None, stream.read().decode("utf-8-sig"), None


def _pubmed(stream: IO[bytes], text_field: str, id_field: str) -> Iterator[_Record]:
    for name, text in citations(stream):
        yield name, text, None


def _fields(values: Any, text_field: str, id_field: str) -> _Record:
    if not isinstance(values, dict):
        return None, "", f"found {type(values).__name__}, expected an object: one a line, and no list around them."
    name = values.get(id_field)
    name = str(name) if name not in (None, "") else None
    if text_field not in values:
        return name, "", f"{_no_text('field', text_field, values)}."
    text = values[text_field]
    if not isinstance(text, str):
        return name, "", f"expected a text in the field {text_field!r}."
    return name, text, None


def _no_text(what: str, text_field: str, known: Iterable[str]) -> str:
    names = ", ".join(islice(map(str, known), 12))
    return f"there is no {what} {text_field!r}, but {names or 'none'}; extraction.text_field=NAME names another"


FORMS: dict[str, Callable[[IO[bytes], str, str], Iterator[_Record]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
    ".txt": _plain,
    ".xml": _pubmed,
}
"""Suffix -> what reads such a file."""
