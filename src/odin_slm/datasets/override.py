"""Datasets for what a user may bring from elsewhere, and for what may be absent.

``--params adapter=DIR`` and ``test_data=FILE.json`` name things that a run reads and must never write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from odin_slm.core.errors import MissingInputError
from odin_slm.datasets.json_files import JsonFileDataset, JsonLinesDataset, RecordsDataset
from odin_slm.datasets.models import AdapterDataset


class OverrideAdapterDataset(AdapterDataset):
    """The project's own adapter, or for reading one from elsewhere.

    Args:
        filepath: The project's own folder; the only one that is ever written.
        override: Holds ``path``: the folder to read instead, or None.
    """

    def __init__(
        self, *, filepath: str, override: dict[str, str | None], metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        other = override["path"]
        self._other = AdapterDataset(filepath=other) if other else None

    def load(self) -> Path:
        """Return the folder from elsewhere, or the project's own.

        Raises:
            MissingInputError: There is no adapter in it.
        """
        return self._other.load() if self._other else super().load()

    def _exists(self) -> bool:
        return self._other.exists() if self._other else super()._exists()

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "override": self._other._describe()["filepath"] if self._other else None}


class GivenRecordsDataset(AbstractDataset[None, list[dict[str, Any]] | None]):
    """Records from elsewhere, read only; None where the user names none.

    Args:
        override: Holds ``path``: a JSON file of records, or None.
    """

    def __init__(self, *, override: dict[str, str | None], metadata: dict[str, Any] | None = None) -> None:
        self._path = override["path"]
        self.metadata = metadata

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
        return JsonFileDataset(filepath=self._path).load()

    def save(self, data: None) -> None:
        """Refuse."""
        raise DatasetError("records from elsewhere are read-only.")

    def _exists(self) -> bool:
        return self._path is None or Path(self._path).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}


class OptionalRecordsDataset(RecordsDataset):
    """Records that load as None where the file is absent."""

    def load(self) -> list[dict[str, Any]] | None:
        """Return the records, or None."""
        return super().load() if self._exists() else None


class OptionalJsonFileDataset(JsonFileDataset):
    """A JSON value that loads as None where the file is absent."""

    def load(self) -> Any:
        """Return the value, or None."""
        return super().load() if self._exists() else None


class OptionalJsonLinesDataset(JsonLinesDataset):
    """JSON lines that load as an empty list where the file is absent."""

    def load(self) -> list[dict[str, Any]]:
        """Return the rows."""
        return super().load() if self._exists() else []
