"""A Kedro environment that a pipeline writes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from kedro.io import AbstractDataset, DatasetError

from odin_slm.datasets.files import new_folder


class EnvironmentDataset(AbstractDataset[dict[str, str], None]):
    """A folder of configuration files; saving replaces it as a whole.

    Args:
        filepath: The environment's folder.
        template: Environment whose other files it takes over, where that exists; its ``globals.yml`` keeps everything
            that the saved one does not set.
    """

    def __init__(self, *, filepath: str, template: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self._template = Path(template)
        self.metadata = metadata

    def load(self) -> None:
        """Refuse: environments are read by Kedro."""
        raise DatasetError("an environment is read by `kedro run --env`.")

    def save(self, data: dict[str, str]) -> None:
        """Write file name -> text over a copy of the template."""
        with new_folder(self._filepath) as folder:
            if self._template.is_dir():
                shutil.copytree(self._template, folder, dirs_exist_ok=True)
            for name, text in data.items():
                old = folder / name
                if name == "globals.yml" and old.is_file():
                    text = _merged(old.read_text(encoding="utf-8"), yaml.safe_load(text))
                (folder / name).write_text(text, encoding="utf-8")

    def _exists(self) -> bool:
        return self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "template": str(self._template)}


def _merged(text: str, values: dict[str, str]) -> str:
    """Return a YAML text with other values of some keys, its comments kept."""
    for key, value in values.items():
        line = yaml.safe_dump({key: value}, allow_unicode=True, width=10_000).strip()
        text, found = re.subn(rf"(?m)^{key}:.*$", line.replace("\\", r"\\"), text)
        if not found:
            text = f"{text.rstrip()}\n{line}\n"
    return text
