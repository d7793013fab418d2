"""JSON and JSON Lines files with canonical bytes, and a table of the first rows for Kedro-Viz."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy
from kedro_datasets._typing import JSONPreview, TablePreview

from odin_slm.core import json_text
from odin_slm.core.errors import MissingInputError, PredictionsError
from odin_slm.core.files import write_text
from odin_slm.core.hashing import canonical_json, canonical_lines, canonical_pieces
from odin_slm.core.rows import Numbers, Rows
from odin_slm.datasets import GivenDataset, PathDataset

_PREVIEW_CHARACTERS = 300
_NAMED = 12


class CanonicalJSONDataset(PathDataset[Any, Any]):
    """One JSON value in canonical form, written whole or not at all: equal values are equal bytes, and equal hashes."""

    def load(self) -> Any:
        """Return the value.

        Raises:
            MissingInputError: There is no such file.
            PredictionsError: The file is not JSON.
        """
        _require(self._filepath)
        return _json(self._filepath, fix="Make it again.")

    def save(self, data: Any) -> None:
        """Write the value."""
        write_text(self._filepath, canonical_pieces(data))

    def preview(self) -> JSONPreview:
        """Return the whole value; for small reports only."""
        return JSONPreview(canonical_json(self.load()))


class RecordsDataset(CanonicalJSONDataset):
    """A list of flat JSON objects, each read from the file when it is asked for."""

    def load(self) -> Sequence[dict[str, Any]]:
        """Return the objects; as a list in memory if the file is not in canonical form.

        Raises:
            MissingInputError: There is no such file.
            PredictionsError: The file is not JSON.
        """
        _require(self._filepath)
        stream = self._filepath.open("rb")
        places = _canonical_places(stream)
        if places is None:
            stream.close()
            return _json(self._filepath, fix="Make it again.")
        return Rows(stream, *places, self._object)

    def _object(self, text: bytes, number: int) -> dict[str, Any]:
        return _object(text, f"{self._filepath}, item {number + 1}")

    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows, long texts cut for the eye."""
        return _table(self.load()[:nrows])


class GivenRecordsDataset(GivenDataset[list[dict[str, Any]] | None]):
    """A JSON file of records (``--params test_data=FILE.json``); None where the user names none."""

    REFUSAL = "records from elsewhere are read-only."

    def load(self) -> list[dict[str, Any]] | None:
        """Return the records.

        Raises:
            MissingInputError: There is no such file.
            PredictionsError: The file is not JSON.
        """
        if not self._path:
            return None
        if not Path(self._path).is_file():
            found = "a folder" if Path(self._path).is_dir() else "no such file"
            raise MissingInputError(
                f"found {found}; expected a JSON file of records.",
                where=self._path,
                fix="Name another one with --params test_data=FILE.json.",
            )
        return _json(Path(self._path), fix="Mend it, or name another one with --params test_data=FILE.json.")

    def _exists(self) -> bool:
        return self._path is None or Path(self._path).is_file()


class JSONLinesDataset(PathDataset[Iterable[dict[str, Any]], Sequence[dict[str, Any]]]):
    """One JSON object a line, written whole or not at all.

    Args:
        filepath: The file.
        lazy: Whether each is read when it is asked for; a broken line is found only then.
        metadata: For hooks and Kedro-Viz.
    """

    def __init__(self, *, filepath: str, lazy: bool = False, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._lazy = lazy

    def load(self) -> Sequence[dict[str, Any]]:
        """Return the rows.

        Raises:
            MissingInputError: There is no such file.
            PredictionsError: A line is not a JSON object.
        """
        _require(self._filepath)
        stream = self._filepath.open("rb")
        if self._lazy:
            ends = numpy.fromiter(accumulate(map(len, stream)), numpy.int64)
            return Rows(stream, numpy.concatenate([[0], ends[:-1]])[: len(ends)], ends, self._row)
        with stream:
            return [self._row(line, number) for number, line in enumerate(stream)]

    def save(self, data: Iterable[dict[str, Any]]) -> None:
        """Write the rows."""
        write_text(self._filepath, canonical_lines(data))

    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows, long values cut for the eye."""
        return _table(self.load()[:nrows])

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        return _object(line, f"{self._filepath}:{number + 1}")


def _canonical_places(stream: BinaryIO) -> tuple[Numbers, Numbers] | None:
    """Return where the objects of a canonical list begin and end; None if the file is no such list."""
    begins, ends = array("q"), array("q")
    place = 0
    lines = iter(stream)
    if next(lines, b"") != b"[\n":
        return None
    place, closed = 2, False
    for line in lines:
        if closed:
            return None
        if line == b" {\n":
            begins.append(place + 1)
        elif line in (b" },\n", b" }\n"):
            ends.append(place + 2)
        elif line == b"]\n":
            closed = True
        elif not line.startswith(b"  "):
            return None
        place += len(line)
    if not closed or len(begins) != len(ends):
        return None
    return numpy.array(begins, numpy.int64), numpy.array(ends, numpy.int64)


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        found = json_text.loads(text)
        if not isinstance(found, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise PredictionsError(f"expected one JSON object ({error}).", where=where, fix="Make it again.") from None
    return found


def _json(file: Path, fix: str) -> Any:
    try:
        return json_text.loads(file.read_text(encoding="utf-8-sig"))  # editors on Windows write a BOM
    except ValueError as error:
        raise PredictionsError(f"not JSON ({error}).", where=str(file), fix=fix) from None


_FIRST = "Run the pipelines before this one; kedro run runs all. Data of another experiment is read with --env NAME."


def _require(file: Path) -> None:
    if file.is_file():
        return
    if file.parent.is_dir():
        names = sorted(path.name for path in file.parent.iterdir() if not path.name.startswith("."))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        found = f"there is no such file; the folder holds {', '.join(names[:_NAMED]) or 'nothing'}{more}."
    else:
        found = f"there is no such file, and no folder {file.parent.name}."
    raise MissingInputError(found, where=str(file), fix=_FIRST)


def _table(rows: Sequence[dict[str, Any]]) -> TablePreview:
    columns = list(rows[0]) if rows else []
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": cells})


def _cell(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _PREVIEW_CHARACTERS else text[:_PREVIEW_CHARACTERS] + "…"
