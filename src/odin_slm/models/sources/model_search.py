"""Finding a base model on the Hub: search, read the metadata of a model, check whether it is suitable, download it."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from odin_slm.core.errors import HubError, HubUnreachableError, ReleaseError
from odin_slm.hub.client import Hub
from odin_slm.hub.credentials import find_token
from odin_slm.hub.licensing import LICENSES, OPEN_LICENSES, base_terms
from odin_slm.hub.metadata_cache import Key, MetadataCache
from odin_slm.models.base_model import BaseModel, check_folder

logger = logging.getLogger(__name__)

SORTS = ("downloads", "likes", "last_modified", "created_at", "trending_score")
_ATTEMPTS = 3
_BASE_PATTERNS = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
# Bytes per parameter of a frozen base, plus 20 % for adapter, activations and buffers.
_SIZES = (("fp32", 4 * 1.2), ("bf16", 2 * 1.2), ("4 bits", 0.6 * 1.2))


@dataclass(frozen=True)
class Check:
    """One check of a base: its verdict, what was found, and what to do."""

    name: str
    verdict: Literal["ok", "warning", "failure"]
    found: str
    fix: str = ""


def search(
    hub: Hub,
    words: str,
    *,
    task: str | None = None,
    author: str | None = None,
    sort: str = "downloads",
    limit: int = 20,
) -> list[dict[str, Any]]:
    """Search models. The results are not cached, because they lack files and architecture.

    Args:
        hub: The Hub.
        words: Text that the id contains.
        task: A task of the Hub, such as text-generation.
        author: Owner of the model.
        sort: One of :data:`SORTS`, largest first.
        limit: Most results to return.

    Raises:
        HubError: The Hub cannot be reached, or refuses. A search without results returns an empty list.
    """
    found = hub.ask(
        f"search {words}",
        lambda api: list(
            api.list_models(search=words or None, pipeline_tag=task, author=author, sort=sort, limit=limit)
        ),
        attempts=_ATTEMPTS,
    )
    return [
        {
            "id": model.id,
            "task": model.pipeline_tag,
            "license": _license_of(None, model.tags),
            "downloads": model.downloads,
            "likes": model.likes,
            "gated": bool(model.gated),
            "private": bool(model.private),
            "modified": _day(model.last_modified),
        }
        for model in found
    ]


def info(hub: Hub, cache: MetadataCache, repo_id: str, revision: str = "main") -> dict[str, Any]:
    """Return the metadata of a model, from the cache if that is fresh.

    Returns:
        ``id``, ``revision`` (commit), ``license``, ``task``, ``library``, ``base_model``, ``parameters``,
        ``architectures``, ``model_type``, ``files`` (name -> bytes), ``bytes``, ``gated``, ``private``, ``downloads``,
        ``likes``, ``modified``, ``tags``, ``fetched_at`` (ISO 8601), and ``stale``, which is True only if the Hub
        cannot be reached and the cached answer has expired.

    Raises:
        HubError: The Hub refuses, or it cannot be reached and nothing is cached.
    """
    user = hashlib.sha256(hub.token.reveal().encode()).hexdigest()[:16] if hub.token else "stranger"
    key = Key(hub.endpoint, "model", repo_id, revision, user)
    found = cache.get(key)
    if found and found.fresh:
        return _dated(found.value, found.fetched_at, stale=False)
    what = f"read {repo_id}"
    failure: HubError
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        failure = HubError("HF_HUB_OFFLINE is set.", where=what, fix="Unset it and try again.")
    else:
        try:
            value = _described(hub.ask(what, lambda api: _read(api, repo_id, revision), attempts=_ATTEMPTS))
        except HubUnreachableError as error:
            failure = error
        else:
            try:
                cache.put(key, value)
            except OSError as error:  # such as a home that cannot be written
                logger.warning("%s: the answer is not kept for another time (%s).", what, error)
            stored = cache.get(key)
            return _dated(value, stored.fetched_at if stored else time.time(), stale=False)
    if found is None:
        raise failure
    logger.warning("%s: %s Using an expired answer from the cache.", what, failure.what)
    return _dated(found.value, found.fetched_at, stale=True)


def of_base(base: BaseModel) -> dict[str, Any] | None:
    """Return :func:`info` of a base on the Hub, by this machine's token and cache.

    Where the Hub cannot be asked, or refuses, a warning is logged and the result is None.
    """
    try:
        return info(Hub(token=find_token()), MetadataCache(default_cache()), base.source, base.revision or "main")
    except HubError as error:
        logger.warning("The base %s was not checked: %s", base.source, error)
        return None


def check(model: Mapping[str, Any], *, memory: int) -> list[Check]:
    """Check whether a model is suitable as a base on this machine.

    Args:
        model: What :func:`info` returns.
        memory: Bytes of memory in which a model can be trained.
    """
    return [_license(model), _naming(model), _files(model), _architecture(model), _size(model, memory), _access(model)]


def download(hub: Hub, repo_id: str, revision: str = "main") -> Path:
    """Download a base into the Hub's cache, at one commit: safetensors, tokenizer, configuration and licence.

    Returns:
        Folder of the base.

    Raises:
        HubError: The Hub refuses or fails.
        BaseModelError: The download is not a complete base.
    """
    commit = hub.ask(
        f"read {repo_id}", lambda api: str(api.model_info(repo_id, revision=revision).sha), attempts=_ATTEMPTS
    )
    folder = hub.ask(
        f"download {repo_id}",
        lambda api: Path(api.snapshot_download(repo_id, revision=commit, allow_patterns=list(_BASE_PATTERNS))),
        attempts=_ATTEMPTS,
    )
    check_folder(folder)
    return folder


def memory_of_this_machine() -> tuple[int, str]:
    """Return bytes and name of the memory in which models are trained; see :func:`preflight.this_machine`."""
    from odin_slm.models.preflight import this_machine

    machine = this_machine()
    return machine.total, machine.name


def default_cache() -> Path:
    """Return the cache's folder: ``ODIN_SLM_CACHE``, or one in the user's cache folder."""
    named = os.environ.get("ODIN_SLM_CACHE")
    return (
        Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odin-slm" / "hub"
    )


def _read(api: Any, repo_id: str, revision: str) -> Any:
    return api.model_info(repo_id, revision=revision, files_metadata=True)


def _described(model: Any) -> dict[str, Any]:
    card = model.card_data.to_dict() if model.card_data else {}
    config = model.config or {}
    files = {sibling.rfilename: sibling.size or 0 for sibling in model.siblings or []}
    return {
        "id": model.id,
        "revision": model.sha,
        "license": _license_of(card.get("license"), model.tags),
        "task": model.pipeline_tag,
        "library": model.library_name,
        "base_model": card.get("base_model"),
        "parameters": model.safetensors.total if model.safetensors else None,
        "architectures": config.get("architectures") or [],
        "model_type": config.get("model_type"),
        "files": files,
        "bytes": sum(files.values()),
        "gated": bool(model.gated),
        "private": bool(model.private),
        "downloads": model.downloads,
        "likes": model.likes,
        "modified": _day(model.last_modified),
        "tags": list(model.tags or []),
    }


def _dated(value: Mapping[str, Any], fetched_at: float, *, stale: bool) -> dict[str, Any]:
    moment = datetime.fromtimestamp(fetched_at, UTC).isoformat(timespec="seconds")
    return {**value, "fetched_at": moment, "stale": stale}


def _license_of(named: Any, tags: Any) -> str | None:
    """Return the licence id from the card or from the tags; the Hub's listing has no field for it."""
    if isinstance(named, list):
        named = named[0] if named else None
    return named or next((tag.removeprefix("license:") for tag in tags or [] if tag.startswith("license:")), None)


def _day(moment: Any) -> str | None:
    return moment.date().isoformat() if moment else None


def _license(model: Mapping[str, Any]) -> Check:
    found = model["license"]
    if not found or found not in LICENSES:
        fix = "Read its page on the Hub before you publish anything derived from it."
        return Check("licence", "warning", f"{found or 'not stated'}: unknown terms", fix)
    if found in OPEN_LICENSES:
        return Check("licence", "ok", f"{found}: open")
    fix = f"Read it, and set publishing.license={found} and publishing.license_file=FILE for the adapter."
    return Check("licence", "warning", f"{found}: has special conditions", fix)


def _naming(model: Mapping[str, Any]) -> Check:
    try:
        terms = base_terms(model["id"])
    except ReleaseError as error:
        return Check("adapter's name", "warning", error.what.rstrip("."), "Its release will be refused. " + error.fix)
    if terms is None:
        return Check("adapter's name", "ok", "free")
    prefix = terms.name_prefix.replace(" ", "-")
    fix = f"Set publishing.model_name={prefix}-… and publishing.license={terms.license}."
    return Check("adapter's name", "warning", f"must begin with {terms.name_prefix}", fix)


def _architecture(model: Mapping[str, Any]) -> Check:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, named = model["model_type"], ", ".join(model["architectures"]) or "unknown"
    if "custom_code" in model["tags"]:
        return Check(
            "architecture", "failure", f"{named}: runs code from its repository", "Choose one without custom code."
        )
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return Check("architecture", "ok", named)
    if not kind and _single_gguf(model):
        return Check("architecture", "ok", "read when the GGUF file is converted")
    found = f"{named} ({kind or 'no config.json'}): not a causal language model in transformers"
    return Check("architecture", "failure", found, "Choose a decoder model for text-generation.")


def _single_gguf(model: Mapping[str, Any]) -> str | None:
    """Return the one GGUF file that a repository has its weights in; None where it has several, or safetensors."""
    files = [name for name in model["files"] if name.endswith((".gguf", ".safetensors"))]
    return files[0] if len(files) == 1 and files[0].endswith(".gguf") else None


def _files(model: Mapping[str, Any]) -> Check:
    names = model["files"]
    if "adapter_config.json" in names:
        fix = f"Use its base: {model['base_model']}." if model["base_model"] else "Use its base."
        return Check("files", "failure", "an adapter, not a base", fix)
    if not any(name.endswith(".safetensors") for name in names):
        if file := _single_gguf(model):
            return Check("files", "ok", f"{file}, a GGUF file, which is converted once")
        if gguf := next((name for name in sorted(names) if name.endswith(".gguf")), None):
            fix = f"Name one of its files, which is converted once: base_model={model['id']}/{gguf}."
            return Check("files", "failure", "weights as GGUF alone", fix)
        return Check(
            "files", "failure", "no safetensors weights", "Choose one with safetensors; pickles are never loaded."
        )
    if "tokenizer.json" not in names:
        return Check("files", "failure", "no tokenizer.json", "Choose one with a fast tokenizer.")
    return Check("files", "ok", f"safetensors and tokenizer, {_bytes(model['bytes'])} in total")


def _size(model: Mapping[str, Any], memory: int) -> Check:
    parameters = model["parameters"]
    if not parameters:
        return Check("size", "warning", "unknown number of parameters", "Compare the files' size with your memory.")
    fitting = [name for name, size in _SIZES if parameters * size <= memory]
    needs = ", ".join(f"{_bytes(parameters * size)} in {name}" for name, size in _SIZES)
    found = f"{_count(parameters)} parameters need about {needs}; {_bytes(memory)} are available"
    if not fitting:
        return Check("size", "failure", found, "Choose a smaller model or a larger machine.")
    if "fp32" in fitting:
        return Check("size", "ok", found)
    fix = "Set training.load_in_4bit=true." if fitting == ["4 bits"] else "Fits in bf16 on a GPU, or in 4 bits."
    return Check("size", "warning", found, fix)


def _access(model: Mapping[str, Any]) -> Check:
    if model["gated"]:
        fix = "Accept its conditions on the Hub, then log in with `hf auth login`."
        return Check("access", "warning", "gated", fix)
    return Check("access", "ok", "private" if model["private"] else "open")


def _bytes(number: float) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
