"""Model folders: the base, training's checkpoints, the adapter."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import JSONPreview

from odin_slm.core.errors import BaseModelError, MissingInputError
from odin_slm.core.files import new_folder, replace_folder
from odin_slm.datasets import ReadOnlyDataset
from odin_slm.inference.served_model import ServedModel, resolve_model
from odin_slm.models.base_model import BaseModel, check_folder, is_whole, resolve_base_model
from odin_slm.models.sources.gguf_source import SUFFIX, base_of_gguf, only_gguf

_log = logging.getLogger(__name__)


class BaseModelDataset(AbstractDataset[Mapping[str, Path | str], BaseModel]):
    """The base by folder, GGUF file or Hub id; loads as a checked :class:`BaseModel`, saves the files of a new one.

    Args:
        source: Folder or GGUF file, relative to the project or absolute, or Hub id ``owner/name``, with a GGUF file
            behind it where the repository has several.
        revision: Commit or tag of a Hub id.
        root: The project's folder.
        models: Folder, relative to the project, where a GGUF file becomes a base.
    """

    def __init__(
        self,
        *,
        source: str,
        root: str = ".",
        revision: str | None = None,
        models: str = "data/06_models",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._source = source
        self._root = Path(root)
        self._revision = revision
        self._models = models
        self.metadata = metadata

    def load(self) -> BaseModel:
        """Return where the base lies, after checking the local folder, or what the Hub says of the model.

        Raises:
            BaseModelError: It will not do as a base.
        """
        if self._source.endswith(SUFFIX):
            return self._converted(self._source)
        base = resolve_base_model(self._source, root=self._root, revision=self._revision)
        if base.path is None and (file := check_hub_base(base)):
            return self._converted(file)
        return base

    def _converted(self, source: str) -> BaseModel:
        models = self._root / self._models
        return base_of_gguf(source, root=self._root, models=models, revision=self._revision)

    def save(self, data: Mapping[str, Path | str]) -> None:
        """Write a base, given as file name -> file or text, in the place of the source folder."""
        with new_folder(self._root / self._source) as folder:
            for name, content in data.items():
                if isinstance(content, Path):
                    shutil.copyfile(content, folder / name)
                else:
                    (folder / name).write_text(content, encoding="utf-8")
            check_folder(folder)

    def _exists(self) -> bool:
        return (self._root / self._source).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"source": self._source, "revision": self._revision}


def check_hub_base(base: BaseModel) -> str | None:
    """Check what ``kedro hub check`` checks, before gigabytes are downloaded; an unreachable Hub stops nothing.

    Returns:
        The GGUF file that the repository has instead of safetensors, as ``owner/name/FILE.gguf``; None for a base.

    Raises:
        BaseModelError: Names the first check that fails, or the GGUF files where there are several.
    """
    from odin_slm.models.sources import model_search

    model = model_search.of_base(base)
    if model is None:
        return None
    file = only_gguf(model)
    for check in model_search.check(model, memory=model_search.memory_of_this_machine()[0]):
        if check.verdict == "failure":
            raise BaseModelError(f"{check.name}: {check.found.rstrip('.')}.", where=base.source, fix=check.fix)
        if check.verdict == "warning":
            _log.warning("%s: %s: %s. %s", base.source, check.name, check.found, check.fix)
    return file


class AdapterDataset(AbstractDataset[Path, Path]):
    """What training made: a LoRA adapter as PEFT saves it, or a whole model, each with its tokenizer.

    Values are paths; a save copies the folder as a whole.

    Args:
        filepath: The project's own folder; the only one that is ever written.
        override: Holds ``path``: the folder to read instead, or None.
    """

    def __init__(
        self,
        *,
        filepath: str,
        override: dict[str, str | None] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._filepath = Path(filepath)
        self._read = Path((override or {}).get("path") or filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """Return the folder.

        Raises:
            MissingInputError: There is neither an adapter nor a whole model in it.
        """
        if not self._exists():
            raise MissingInputError(
                "there is no adapter here (adapter_config.json), and no whole model (config.json).",
                where=str(self._read),
                fix="Run the training pipeline, or name a folder with --params adapter=DIR.",
            )
        return self._read

    def save(self, data: Path) -> None:
        """Copy the folder to the project's own."""
        replace_folder(self._filepath, data)

    def _exists(self) -> bool:
        return self._configuration.is_file()

    @property
    def _configuration(self) -> Path:
        return self._read / ("config.json" if is_whole(self._read) else "adapter_config.json")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": os.fspath(self._filepath), "read": os.fspath(self._read)}

    def preview(self) -> JSONPreview:
        """Return the configuration."""
        configuration = json.loads(self._configuration.read_text(encoding="utf-8"))
        return JSONPreview(json.dumps(configuration, indent=1))


class ServedModelDataset(ReadOnlyDataset[ServedModel]):
    """A finished model by any name that the service takes: folder, Hub id, ``models:/…``, ``runs:/…``.

    Args:
        source: The name.
        root: The project's folder.
        base_model: Base of the adapter where its configuration does not name one that can be found.
    """

    REFUSAL = "a finished model is read-only."

    def __init__(
        self, *, source: str, root: str = ".", base_model: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._source, self._root, self._base_model = source, Path(root), base_model
        self.metadata = metadata

    def load(self) -> ServedModel:
        """Return the model, identified by its digest; a remote one is fetched."""
        return resolve_model(self._source, root=self._root, base_model=self._base_model)

    def _exists(self) -> bool:
        return (self._root / self._source).is_dir() or ":" in self._source

    def _describe(self) -> dict[str, Any]:
        return {"source": self._source}
