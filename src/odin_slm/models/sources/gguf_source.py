"""``base_model=FILE.gguf``, of this machine or of a repository of the Hub: converted once, then a folder like any."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from odin_slm.core.errors import BaseModelError
from odin_slm.models.base_model import BaseModel, check_folder
from odin_slm.models.sources.conversion import Origin, convert, provenance_of

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"


def base_of_gguf(source: str, *, root: Path, models: Path, revision: str | None = None) -> BaseModel:
    """Return the base that a GGUF file holds, converted into a folder of its name unless it is there.

    Args:
        source: The file, absolute or relative to ``root``, or ``owner/name/FILE.gguf`` of the Hub.
        root: The project's folder.
        models: Where models lie.
        revision: Commit or tag of the repository; None takes what was converted before, or its main branch.

    Raises:
        BaseModelError: There is no such file, or it cannot be converted faithfully.
        HubError: The Hub refuses, or cannot be reached.
    """
    file = root / Path(source).expanduser()
    if file.is_file():
        folder = convert(file, models / file.stem, Origin("a local file"))
    elif not source.startswith((".", "/", "~", "data/")) and source.count("/") >= 2:
        owner, name, path = source.split("/", 2)
        folder = _of_hub(f"{owner}/{name}", path, models, revision)
    else:
        raise BaseModelError(
            "there is no such file.",
            where=source,
            fix="Name a file of this machine, or one of the Hub as owner/name/FILE.gguf.",
        )
    return BaseModel(folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder), folder)


def only_gguf(model: Mapping[str, Any]) -> str | None:
    """Return the GGUF file of a repository that has its weights in no other form; None where it has.

    Args:
        model: What :func:`odin_slm.models.sources.model_search.info` returns.

    Raises:
        BaseModelError: It has several, and nobody said which.
    """
    files = sorted(name for name in model["files"] if name.endswith(SUFFIX))
    if not files or any(name.endswith(".safetensors") for name in model["files"]):
        return None
    if len(files) > 1:
        raise BaseModelError(
            f"it has {len(files)} GGUF files: {', '.join(files[:8])}{', …' if len(files) > 8 else ''}.",
            where=model["id"],
            fix=f"Name one of them: base_model={model['id']}/{files[0]}.",
        )
    return f"{model['id']}/{files[0]}"


def _of_hub(repository: str, path: str, models: Path, revision: str | None) -> Path:
    from odin_slm.hub.client import Hub
    from odin_slm.hub.credentials import find_token
    from odin_slm.hub.metadata_cache import MetadataCache
    from odin_slm.models.sources import model_search

    target = models / PurePosixPath(path).stem
    stated = provenance_of(target) or {}
    same = (stated.get("repository"), stated.get("path")) == (repository, path)
    if same and revision in (None, stated.get("revision")):
        check_folder(target)
        return target
    hub = Hub(token=find_token())
    model = model_search.info(hub, MetadataCache(model_search.default_cache()), repository, revision or "main")
    commit, derived = str(model["revision"]), model["base_model"]
    logger.info("Fetching %s of %s", path, repository)
    file = hub.ask(
        f"download {path} of {repository}",
        lambda api: Path(api.hf_hub_download(repository, path, revision=commit)),
        attempts=3,
    )
    origin = Origin(
        f"[`{path}`](https://huggingface.co/{repository}/blob/{commit}/{path}) of the Hub's repository `{repository}`",
        derived[0] if isinstance(derived, list) and derived else derived or None,
        model["license"],
        (("repository", repository), ("path", path), ("revision", commit)),
    )
    return convert(file, target, origin)
