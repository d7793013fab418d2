"""Saved datasets as artifacts of the run."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl

from odin_slm.core.redaction import VOCABULARY_FILES, Redactor
from odin_slm.hooks.run_state import CatalogHook, state_of

_TEXTS = frozenset({".csv", ".html", ".json", ".jsonl", ".md", ".txt", ".yml"})


class ArtifactsHook(CatalogHook):
    """Log every saved dataset whose catalog entry asks for it.

    The entry says ``metadata: {mlflow: {artifact_path: FOLDER}}``; without ``artifact_path`` the file lies at the top
    of the run's artifacts. A dataset of several files in a shared folder names them itself, as ``saved``.
    """

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Copy the dataset's files or folder into the run."""
        dataset = self._catalog.get(dataset_name)
        options = (getattr(dataset, "metadata", None) or {}).get("mlflow")
        state = state_of(self._catalog)
        if options is None or state is None or state.run_id is None:
            return
        import mlflow

        for path in getattr(dataset, "saved", None) or [local_path(self._catalog, dataset_name)]:
            with tempfile.TemporaryDirectory() as folder:
                copy = _redacted_copy(path, Path(folder) / path.name, state.redactor)
                log = mlflow.log_artifacts if copy.is_dir() else mlflow.log_artifact
                log(str(copy), artifact_path=options.get("artifact_path"))


def local_path(catalog: Any, name: str) -> Path | None:
    """Return where a dataset of the catalog lies on this disk, or None where it has no path."""
    entry = catalog.config_resolver.resolve_pattern(name)
    path = entry.get("filepath") or entry.get("dataset", {}).get("filepath")
    return Path(path) if path else None


def _redacted_copy(path: Path, copy: Path, redactor: Redactor) -> Path:
    """Return the file or folder itself, or a copy without paths and secrets where a text of it holds some."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    for file in files:
        if file.suffix in _TEXTS and file.name not in VOCABULARY_FILES:
            text = file.read_text(encoding="utf-8")
            if (replaced := redactor.text(text)) != text:
                if path.is_dir() and not copy.exists():
                    shutil.copytree(path, copy)
                target = copy / file.relative_to(path) if path.is_dir() else copy
                target.write_text(replaced, encoding="utf-8", newline="\n")
    return copy if copy.exists() else path
