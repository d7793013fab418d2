"""Classes of the catalog; here is what they have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar

from kedro.io import AbstractDataset, DatasetError

In = TypeVar("In")
Out = TypeVar("Out")


class PathDataset(AbstractDataset[In, Out]):
    """A dataset that is one file or folder on this machine.

    Args:
        filepath: The file or folder.
        metadata: For hooks and Kedro-Viz.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class ReadOnlyDataset(AbstractDataset[None, Out]):
    """A dataset that no pipeline writes."""

    REFUSAL: ClassVar[str]
    """What a save is told."""

    def save(self, data: None) -> None:
        """Refuse."""
        raise DatasetError(self.REFUSAL)


class GivenDataset(ReadOnlyDataset[Out]):
    """What the user may name with ``--params``, from elsewhere; read only.

    Args:
        override: Holds ``path``: the file or folder, or None where none is named.
        metadata: For hooks and Kedro-Viz.
    """

    def __init__(self, *, override: dict[str, str | None], metadata: dict[str, Any] | None = None) -> None:
        self._path = override["path"]
        self.metadata = metadata

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}
