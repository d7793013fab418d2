"""Figures whose names are known when they are drawn, beside the other reports of an experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import PlotlyPreview

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class FiguresDataset(AbstractDataset["Mapping[str, Figure]", "dict[str, Figure]"]):
    """One Plotly file a figure in a folder that holds other files too.

    Which figures there are is the task's, so that the catalog cannot list them; a partitioned dataset would take every
    JSON file of the folder for a figure, and has no preview.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(path)
        self.metadata = metadata
        self.saved: list[Path] = []
        """Files of the last save."""

    def load(self) -> dict[str, Figure]:
        """Return figures by name: those files of the folder that are some."""
        return {file.stem: _plotly(file).load() for file in self._files()}

    def save(self, data: Mapping[str, Figure]) -> None:
        """Write ``NAME.json`` for each figure."""
        self.saved = [self._folder / f"{name}.json" for name in data]
        for file, figure in zip(self.saved, data.values(), strict=True):
            _plotly(file).save(figure)

    def preview(self, name: str = "") -> PlotlyPreview:
        """Return a figure; the first one of the folder where none of this name is there.

        Raises:
            FileNotFoundError: There is no figure.
        """
        files = self._files()
        chosen = [file for file in files if file.stem == name] or files
        if not chosen:
            raise FileNotFoundError(f"{self._folder}: there is no figure.")
        return _plotly(chosen[0]).preview()

    def _files(self) -> list[Path]:
        return [file for file in sorted(self._folder.glob("*.json")) if _is_figure(file)]

    def _exists(self) -> bool:
        return bool(self._files())

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._folder)}


def _plotly(file: Path) -> Any:
    from kedro_datasets.plotly import JSONDataset

    return JSONDataset(filepath=str(file))


def _is_figure(file: Path) -> bool:
    content = json.loads(file.read_text(encoding="utf-8"))
    return isinstance(content, dict) and {"data", "layout"} <= set(content)
