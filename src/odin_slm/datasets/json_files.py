"""JSON and JSON Lines files with canonical bytes, and a table of the first rows for Kedro-Viz."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedro_datasets._typing import JSONPreview, TablePreview

from odin_slm.core import json_text
from odin_slm.core.errors import MissingInputError, PredictionsError
from odin_slm.core.files import write_text
from odin_slm.core.hashing import canonical_json, canonical_jsonl
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
        write_text(self._filepath, canonical_json(data))

    def preview(self) -> JSONPreview:
        """Return the whole value; for small reports only."""
        return JSONPreview(canonical_json(self.load()))


class RecordsDataset(CanonicalJSONDataset):
    """A list of flat JSON objects."""

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


class JSONLinesDataset(PathDataset[list[dict[str, Any]], list[dict[str, Any]]]):
    """One JSON object a line."""

    def load(self) -> list[dict[str, Any]]:
        """Return the rows.

        Raises:
            MissingInputError: There is no such file.
            PredictionsError: A line is not a JSON object.
        """
        _require(self._filepath)
        rows = []
        with self._filepath.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    row = json_text.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("no object")
                except ValueError as error:
                    raise PredictionsError(
                        f"expected one JSON object ({error}).", where=f"{self._filepath}:{number}", fix="Make it again."
                    ) from None
                rows.append(row)
        return rows

    def save(self, data: list[dict[str, Any]]) -> None:
        """Write the rows."""
        write_text(self._filepath, canonical_jsonl(data))

    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows, long values cut for the eye."""
        return _table(self.load()[:nrows])


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


def _table(rows: list[dict[str, Any]]) -> TablePreview:
    columns = list(rows[0]) if rows else []
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return TablePreview({"index": list(range(len(rows))), "columns": columns, "data": cells})


def _cell(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _PREVIEW_CHARACTERS else text[:_PREVIEW_CHARACTERS] + "…"
