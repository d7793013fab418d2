"""Folders: those that long jobs work in, and those that are read or written as a whole."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kedro.io import DatasetError

from odin_slm.core.errors import MissingInputError, ReviewError
from odin_slm.core.files import new_folder, write_text
from odin_slm.core.hashing import canonical_json, file_hashes
from odin_slm.datasets import PathDataset, ReadOnlyDataset
from odin_slm.datasets.sources.texts import decode
from odin_slm.review.queue import MANIFEST

Write = Callable[[str], tuple[dict[str, str], dict[str, Any]]]
"""Moment of writing -> file name -> text, and what ``review.json`` says besides."""


class FolderDataset(PathDataset[None, Path], ReadOnlyDataset[Path]):
    """A working folder that a long job writes into while it runs; loading makes it."""

    REFUSAL = "a working folder is not saved as a whole: jobs write into it themselves."

    def load(self) -> Path:
        """Return the folder; make it if there is none."""
        self._filepath.mkdir(parents=True, exist_ok=True)
        return self._filepath

    def clear(self) -> None:
        """Remove the folder, whose work is done."""
        shutil.rmtree(self._filepath, ignore_errors=True)

    def _exists(self) -> bool:
        return True


class TextFolderDataset(PathDataset[None, dict[str, str]], ReadOnlyDataset[dict[str, str]]):
    """Every ``*.txt`` and ``*.tsv`` file of a folder, by name; one that is not UTF-8 is named, with its line."""

    REFUSAL = "the texts for pretraining are read-only."

    def load(self) -> dict[str, str]:
        """Return file name -> text, in name order.

        Raises:
            MissingInputError: There is none.
            CorpusFormatError: One is not UTF-8.
        """
        files = sorted(f for f in self._filepath.glob("*") if f.suffix in (".txt", ".tsv") and f.is_file())
        if not files:
            raise MissingInputError(
                "there is no *.txt or *.iob.tsv file to pretrain on.",
                where=str(self._filepath),
                fix="Name a folder of texts with --params text=DIR.",
            )
        texts = {file.name: decode(str(file), file.name, file.read_bytes()) for file in files}
        return {
            name: text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n") for name, text in texts.items()
        }


class EnvironmentDataset(PathDataset[dict[str, str], None]):
    """A folder of configuration files; saving replaces it as a whole.

    Args:
        filepath: The environment's folder.
        template: Environment whose other files it takes over, where that exists; its ``globals.yml`` keeps everything
            that the saved one does not set.
    """

    def __init__(self, *, filepath: str, template: str, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._template = Path(template)

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

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "template": str(self._template)}


def _merged(text: str, values: dict[str, str]) -> str:
    """Return a YAML text with some values replaced and its comments kept."""
    for key, value in values.items():
        line = yaml.safe_dump({key: value}, allow_unicode=True, width=10_000).strip()
        text, found = re.subn(rf"(?m)^{key}:.*$", line.replace("\\", r"\\"), text)
        if not found:
            text = f"{text.rstrip()}\n{line}\n"
    return text


class ReviewDataset(PathDataset[Write, dict[str, Any]]):
    """A folder of files to correct, and ``review.json``, which says what was chosen, by which model, and when."""

    def load(self) -> dict[str, Any]:
        """Return ``review.json``."""
        manifest: dict[str, Any] = json.loads((self._filepath / MANIFEST).read_text(encoding="utf-8"))
        return manifest

    def save(self, data: Write) -> None:
        """Write the files; see :func:`odin_slm.pipelines.review.nodes.choose_documents`.

        Raises:
            ReviewError: The folder holds files that were changed since they were written.
        """
        if changed := _corrected(self._filepath):
            raise ReviewError(
                f"{', '.join(changed[:3])} holds corrections, or is no file of a review; it is not replaced.",
                where=str(self._filepath),
                fix="Move the folder, or name another one with --params reviews=DIR.",
            )
        files, manifest = data(datetime.now(UTC).isoformat(timespec="seconds"))
        with new_folder(self._filepath) as fresh:
            for name, text in files.items():
                write_text(fresh / name, text)
            write_text(fresh / MANIFEST, canonical_json({**manifest, "files": file_hashes(fresh)}))

    def _exists(self) -> bool:
        return (self._filepath / MANIFEST).is_file()


def _corrected(folder: Path) -> list[str]:
    """Return the files of a folder that were changed since they were written."""
    if not folder.is_dir():
        return []
    found = file_hashes(folder)
    written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"] if MANIFEST in found else {}
    return [name for name, digest in found.items() if name != MANIFEST and written.get(name) != digest]
