"""A dataset whose data may be absent."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from kedro.io import AbstractDataset


class OptionalDataset(AbstractDataset[Any, Any]):
    """Any other dataset, which loads as a default value while there is nothing to load.

    A node that cannot do without says so itself; see :func:`odin_slm.core.errors.required`.

    Args:
        dataset: Configuration of the dataset proper.
        default: What is loaded while that does not exist.
    """

    def __init__(self, *, dataset: dict[str, Any], default: Any = None, metadata: dict[str, Any] | None = None) -> None:
        self._dataset = AbstractDataset.from_config("dataset", deepcopy(dataset))
        self._default = default
        self.metadata = metadata

    def load(self) -> Any:
        """Return the data, or the default."""
        return self._dataset.load() if self._dataset.exists() else deepcopy(self._default)

    def save(self, data: Any) -> None:
        """Save the data."""
        self._dataset.save(data)

    def _exists(self) -> bool:
        return self._dataset.exists()

    def _describe(self) -> dict[str, Any]:
        return {"dataset": repr(self._dataset), "default": self._default}

    @property
    def preview(self) -> Any:
        """The preview of the dataset proper; there is none where that has none."""
        return self._dataset.preview  # type: ignore[attr-defined]
