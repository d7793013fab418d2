"""A GGUF file as a base: a folder of safetensors with tokenizer, card and provenance, whole or not there at all."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odin_slm.core import json_text
from odin_slm.core.errors import BaseModelError
from odin_slm.core.hashing import sha256_of
from odin_slm.models.base_model import BaseModel, check_folder, load_tokenizer
from odin_slm.models.sources.gguf_file import Gguf, configuration, open_gguf, places, read_weight
from odin_slm.models.sources.gguf_tokenizer import check_tokenizer, tokenizer_of

logger = logging.getLogger(__name__)

PROVENANCE = "conversion.json"
"""What a converted base was made of."""
_SHARD = "2GB"


@dataclass(frozen=True)
class Origin:
    """Where a GGUF file comes from, as far as it is known.

    Attributes:
        source: The file's own place, as the card says it: a package of the index, a repository of the Hub.
        derived_from: Hub id of the model whose weights it holds; None where nobody says.
        license: Hub licence id; None where nobody states one.
        details: More of the source: version, sha256 of the package, commit.
    """

    source: str
    derived_from: str | None = None
    license: str | None = None
    details: tuple[tuple[str, str], ...] = ()


def convert(file: Path, target: Path, origin: Origin) -> Path:
    """Make a base of a GGUF file, unless it is there already.

    Args:
        file: The GGUF file.
        target: The base's folder.
        origin: Where the file comes from; its own metadata fill what this leaves open.

    Returns:
        The folder.

    Raises:
        BaseModelError: The file cannot be converted faithfully, or the folder holds something else.
    """
    with working_folder(target) as work:
        return convert_in(work, file, target, origin)


def convert_in(work: Path, file: Path, target: Path, origin: Origin) -> Path:
    """Do what :func:`convert` does, for whoever has the :func:`working_folder` already."""
    digest = sha256_of(file)
    if (stated := provenance_of(target)) is not None and stated["gguf"]["sha256"] == digest:
        check_folder(target)
        return target
    refuse_other(target)
    fresh = work / "base"
    shutil.rmtree(fresh, ignore_errors=True)  # of a conversion that was killed
    fresh.mkdir()
    try:
        _write(open_gguf(file), digest, fresh, target.name, origin)
        check_folder(fresh)
        os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    logger.info("%s is a base now: %s", file.name, target)
    return target


def refuse_other(target: Path) -> None:
    """Refuse to write a base over something else.

    Raises:
        BaseModelError: There is something.
    """
    if target.exists():
        raise BaseModelError(
            "there is something else in the place of this base.",
            where=str(target),
            fix="Move it away. Of a GGUF file, renaming will do: its base is named after it.",
        )


def provenance_of(folder: Path) -> dict[str, Any] | None:
    """Return what a converted base was made of; None for a base that was not converted.

    Raises:
        BaseModelError: The file that says it is broken.
    """
    file = folder / PROVENANCE
    if not file.is_file():
        return None
    try:
        stated: dict[str, Any] = json_text.loads(file.read_text(encoding="utf-8"))
        _ = stated["gguf"]["sha256"], stated["license"], stated["derived_from"]
    except (ValueError, KeyError, TypeError) as error:
        raise BaseModelError(
            f"not what a conversion writes ({error!r}).", where=str(file), fix="Remove the folder, and convert again."
        ) from None
    return stated


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """Yield a folder beside ``target`` to prepare it in, to one process at a time.

    It goes when all went well. After a failure it stays, so that what was fetched into it is not fetched again.
    """
    from filelock import FileLock

    work = target.with_name(f".{target.name}.new")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        work.mkdir(exist_ok=True)
        try:
            yield work
        except BaseException:
            if not any(work.iterdir()):
                work.rmdir()
            raise
        shutil.rmtree(work)


def _write(gguf: Gguf, digest: str, folder: Path, name: str, origin: Origin) -> None:
    config = configuration(gguf)
    model, tensors = places(gguf, config)
    tokenizer = tokenizer_of(gguf, config.max_position_embeddings)
    tokenizer.save_pretrained(folder)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    check_tokenizer(gguf, load_tokenizer(BaseModel(str(gguf.file), folder)))
    _write_weights(gguf, config, model, tensors, folder)
    stated = {
        "derived_from": origin.derived_from or _derived_from(gguf),
        "license": origin.license or gguf.metadata.get("general.license"),
        "source": origin.source,
        **dict(origin.details),
        "gguf": {
            "file": gguf.file.name,
            "sha256": digest,
            "name": gguf.metadata.get("general.name"),
            "formats": gguf.formats,
        },
        "weights": gguf.dtype,
        "versions": {package: importlib.metadata.version(package) for package in ("odin-slm", "gguf", "transformers")},
    }
    (folder / PROVENANCE).write_text(json.dumps(stated, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(name, stated), encoding="utf-8")


def _write_weights(gguf: Gguf, config: Any, model: Any, tensors: dict[str, str], folder: Path) -> None:
    """Write the weights file by file, so that no more than one of them is in memory."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file
    from tqdm import tqdm

    dtype = getattr(torch, gguf.dtype)
    weights = {name: weight.to(dtype) for name, weight in model.state_dict().items() if name in tensors}
    plan = split_torch_state_dict_into_shards(
        weights, filename_pattern="model{suffix}.safetensors", max_shard_size=_SHARD
    )
    with tqdm(
        total=len(tensors), desc=f"Converting {gguf.file.name}", unit=" tensors", leave=False, disable=None
    ) as bar:
        for file, names in plan.filename_to_tensors.items():
            part = {}
            for name in names:
                part[name] = torch.from_numpy(read_weight(gguf, tensors[name], config)).to(dtype)
                bar.update()
            save_file(part, folder / file, metadata={"format": "pt"})
            shutil.copymode(folder / "config.json", folder / file)  # safetensors writes for its owner alone
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _derived_from(gguf: Gguf) -> str | None:
    """Return the Hub id of the model, where its address stands in the metadata (``general.source.*``)."""
    for key in ("general.source.repo_url", "general.repo_url", "general.source.huggingface.repository"):
        source = str(gguf.metadata.get(key) or "").removeprefix("https://huggingface.co/").strip("/")
        if source.count("/") == 1:
            return source
    return None


def _card(name: str, stated: dict[str, Any]) -> str:
    head = {key: stated[value] for key, value in (("license", "license"), ("base_model", "derived_from"))}
    front = "".join(f"{key}: {value}\n" for key, value in head.items() if value)
    of = (
        f"[`{stated['derived_from']}`](https://huggingface.co/{stated['derived_from']})"
        if head["base_model"]
        else "a model"
    )
    formats = ", ".join(f"{count} {kind}" for kind, count in stated["gguf"]["formats"].items())
    licence = (
        f"Its licence is {stated['license']}."
        if stated["license"]
        else "Nobody states its licence: read it on the page that the file comes from before you publish."
    )
    return (
        f"---\n{front}library_name: transformers\npipeline_tag: text-generation\n---\n"
        f"# {name}\n\n"
        f"The weights of {of} as `{stated['gguf']['file']}` holds them (tensors: {formats}), converted to "
        f"{stated['weights']} safetensors by odin-slm. What the file's format rounded is not back.\n\n"
        f"Source of the file: {stated['source']}. Its sha256, and the versions that converted it, stand in "
        f"`{PROVENANCE}`. {licence}\n"
    )
