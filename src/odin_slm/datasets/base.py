"""What the classes of the catalog have in common."""

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
