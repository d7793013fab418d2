"""Records that a user brings from elsewhere: ``--params test_data=FILE.json`` is read and never written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from odin_slm.core.errors import MissingInputError
from odin_slm.datasets.json_files import CanonicalJSONDataset


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
        return CanonicalJSONDataset(filepath=self._path).load()

    def save(self, data: None) -> None:
        """Refuse."""
        raise DatasetError("records from elsewhere are read-only.")

    def _exists(self) -> bool:
        return self._path is None or Path(self._path).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}
