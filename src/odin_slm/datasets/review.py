"""The files of a review: written whole, and never over somebody's corrections."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from odin_slm.core.errors import ReviewError
from odin_slm.core.hashing import canonical_json, file_hashes
from odin_slm.datasets.base import PathDataset
from odin_slm.datasets.files import new_folder, write_text
from odin_slm.review.queue import MANIFEST

Write = Callable[[str], tuple[dict[str, str], dict[str, Any]]]


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
        if changed := _changed(self._filepath):
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


def _changed(folder: Path) -> list[str]:
    """Return the files of a folder that are not as they were written."""
    if not folder.is_dir():
        return []
    found = file_hashes(folder)
    written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"] if MANIFEST in found else {}
    return [name for name, digest in found.items() if name != MANIFEST and written.get(name) != digest]
