"""A base model by folder or Hub id: located, checked, and loaded the same way everywhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odin_slm.core import json_text
from odin_slm.core.errors import BaseModelError
from odin_slm.core.hashing import sha256_of, sha256_of_files
from odin_slm.core.names import HUB_ID
from odin_slm.models.text_encoder import is_control

_FOLDER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
_FURTHER_FILES = ("generation_config.json", "special_tokens_map.json", "added_tokens.json")
"""What transformers reads as well where it is there."""
_PADDING = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>")
"""Tokens that bases reserve for padding without naming them in their configuration."""
_FIX = (
    "Restore the folder (git checkout -- data/06_models/odin-nano for the embedded base, kedro base fetch NAME for one "
    "of kedro base list), or name another base_model."
)

_DECISIVE = frozenset({"adapter_config.json", *_FOLDER_FILES, *_FURTHER_FILES})


@dataclass(frozen=True)
class BaseModel:
    """Where a base model lies.

    Attributes:
        source: Folder name or Hub id, as the user gave it.
        path: Folder on this machine, or None for a Hub id.
        revision: Commit or tag of a Hub id; None means its main branch.
    """

    source: str
    path: Path | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """What people call it: the folder's name, or the Hub id."""
        return self.path.name if self.path else self.source

    @property
    def location(self) -> str:
        """What ``from_pretrained`` takes."""
        return str(self.path) if self.path else self.source


def is_whole(folder: Path) -> bool:
    """Tell whether a folder holds a whole model, as full fine-tuning makes it, and no adapter."""
    return (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()


def trained_weights(folder: Path) -> Path:
    """Return the file with the weights of an adapter or of a whole model; it need not exist."""
    return folder / ("model.safetensors" if is_whole(folder) else "adapter_model.safetensors")


def weights_sha256(folder: Path) -> str | None:
    """Return the hash of the weights of an adapter or of a whole model, in one file or in shards; None without any."""
    file = trained_weights(folder)
    if file.is_file():
        return sha256_of(file)
    shards = sorted(folder.glob("*.safetensors"))
    return sha256_of_files(shards) if shards else None


def standing_alone(base: BaseModel, adapter: Path | None) -> tuple[BaseModel, Path | None]:
    """Return what is loaded for a base and an adapter: a whole model in the adapter's place needs no base.

    Raises:
        BaseModelError: The whole model is incomplete or corrupt.
    """
    if adapter is None or not is_whole(adapter):
        return base, adapter
    check_folder(adapter)
    return BaseModel(str(adapter), adapter), None


def causal_of(model: Any) -> Any:
    """Return the causal language model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def resolve_base_model(source: str, *, root: Path, revision: str | None = None) -> BaseModel:
    """Find a base model and check a local folder before anything is loaded.

    A folder, absolute or relative to ``root``, goes first; anything of the form ``owner/name`` is a Hub id.

    Raises:
        BaseModelError: Neither a folder nor a Hub id, or the folder is incomplete or corrupt.
    """
    folder = root / Path(source).expanduser()
    if folder.is_dir():
        check_folder(folder)
        return BaseModel(source, folder)
    if source.startswith((".", "/", "~", "data/")) or not HUB_ID.fullmatch(source):
        raise BaseModelError("there is no such folder, and it is no Hub id (owner/name).", where=source, fix=_FIX)
    return BaseModel(source, None, revision)


def commit_of(base: BaseModel) -> str | None:
    """Return the commit of a Hub base as this machine has it, or what the user named; None for a folder."""
    if base.path:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(base.source, "config.json", revision=base.revision)
    return Path(found).parent.name if isinstance(found, str) else base.revision


def check_folder(folder: Path) -> None:
    """Check that a base model folder is complete and that its weights are whole safetensors.

    The header of a safetensors file (format page: an 8-byte little-endian length, JSON, then the tensors) names the
    last byte of every tensor; a truncated download is shorter than that.

    Raises:
        BaseModelError: Names the file that is missing or broken.
    """
    for name in _FOLDER_FILES:
        if not (folder / name).is_file():
            raise BaseModelError(f"the base model lacks {name}.", where=str(folder), fix=_FIX)
    for name in (*_FOLDER_FILES, *(name for name in _FURTHER_FILES if (folder / name).is_file())):
        try:
            json_text.loads((folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise BaseModelError(f"not JSON ({error}).", where=str(folder / name), fix=_FIX) from None
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BaseModelError("the base model has no *.safetensors weights.", where=str(folder), fix=_FIX)
    for file in weights:
        check_safetensors(file)


def check_safetensors(file: Path) -> None:
    """Check that a safetensors file is whole.

    Raises:
        BaseModelError: It is not.
        OSError: It is not there.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= size - 8:
                raise ValueError("the header's length is impossible")
            header = json_text.loads(stream.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if 8 + length + end != size:
            raise ValueError(f"{8 + length + end} bytes expected, {size} found")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelError(f"not a whole safetensors file ({error}).", where=str(file), fix=_FIX) from None


def load_tokenizer(base: BaseModel) -> Any:
    """Load the base's tokenizer, with an end-of-sequence token and one to pad with.

    The two may be one token, as in SmolLM2 and Qwen 2.5: what is padding is told by its place everywhere, never by its
    id, so that the end of an output carries its loss and the model learns to stop.

    Raises:
        BaseModelError: The tokenizer cannot be loaded, names no end-of-sequence token, or has tokens that the model has
            not.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.location, revision=base.revision, trust_remote_code=False)
    except Exception as error:  # tokenizers raises no narrower one, as for a file of a later version
        raise _loading_error(base, error) from error
    if tokenizer.eos_token_id is None:
        raise BaseModelError(
            "the tokenizer names no end-of-sequence token, so a model could not learn to stop.",
            where=base.source,
            fix="Set eos_token in its tokenizer_config.json, or choose another base.",
        )
    _check_embeddings(base, tokenizer)
    return tokenizer


def _check_embeddings(base: BaseModel, tokenizer: Any) -> None:
    """Refuse a tokenizer that writes tokens without an embedding, and pad with one that has one."""
    known, added = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
    rows = _embeddings_of(base) or len(tokenizer)
    roles = {getattr(tokenizer, f"{role}_token"): f"its {role} token" for role in ("bos", "eos")}
    for token, number in known.items():
        if number >= rows and (token in roles or number not in added or not is_control(added[number])):
            raise BaseModelError(
                f"{roles.get(token, 'the token')} {token!r} has the id {number}, and the model only {rows} embeddings.",
                where=base.source,
                fix="Take the tokenizer that the base's maker published with these weights.",
            )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        reserved = (token for token in _PADDING if known.get(token, rows) < rows)
        tokenizer.pad_token = next(reserved, tokenizer.eos_token)


def _embeddings_of(base: BaseModel) -> int | None:
    """Return how many tokens the model has embeddings for; None where its configuration does not say."""
    try:
        rows: int | None = getattr(_config(base).get_text_config(), "vocab_size", None)
    except (OSError, ValueError, KeyError, RecursionError):  # whoever loads the weights says what is wrong with it
        return None
    return rows


def context_of(base: BaseModel) -> int | None:
    """Return how many tokens prompt and output may have together; None where the model names no limit."""
    limit: int | None = getattr(_config(base), "max_position_embeddings", None)
    return limit


def _config(base: BaseModel) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base.location, revision=base.revision, trust_remote_code=False)


def pad_within(config: Any) -> Any:
    """Return a configuration without a pad token that is none of the model's tokens.

    ``torch.nn.Embedding`` refuses it, and nothing here needs it: padding is masked.
    """
    for part in (config, config.get_text_config()):
        pad, rows = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
        if isinstance(pad, int) and rows and not 0 <= pad < rows:
            part.pad_token_id = None
    return config


def load_model(base: BaseModel, **options: Any) -> Any:
    """Load the base as a causal language model in evaluation mode.

    Args:
        base: The base model.
        **options: Passed to ``AutoModelForCausalLM.from_pretrained``, for example ``dtype``.

    Raises:
        BaseModelError: The weights cannot be loaded, or do not fit the configuration.
        BackendError: The base is quantised, and this machine lacks what that needs.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from odin_slm.models.quantised import check_quantised

    logging.disable_progress_bar()  # a bar per loaded tensor, over in a blink
    options.setdefault("dtype", torch.float32)
    try:
        config = pad_within(_config(base))
        check_quantised(base, config)
        model = AutoModelForCausalLM.from_pretrained(
            base.location,
            config=config,
            revision=base.revision,
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        ).eval()
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, AssertionError) as error:
        raise _loading_error(base, error) from error
    keep_unpacked(model)
    return model


def keep_unpacked(model: Any) -> None:
    """Keep the 4-bit layers of a model on a CPU in the layout that can be trained and shared between threads.

    On processors with AVX512-BF16, bitsandbytes (0.50, ``Linear4bit.forward``) reorders a layer's weights in place for
    its inference kernel at the first forward pass in evaluation mode. Two threads that do so at the same time break
    them. Training takes gradients through the reordered ones afterwards, which are wrong. The scales are rounded to
    bfloat16, and layers whose inputs are no multiple of 64, or whose outputs are none of 32, are refused.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _loading_error(base: BaseModel, error: Exception) -> BaseModelError:
    reason = str(error).strip().split("\n")[0]
    fix = _FIX if base.path else "Check the id, the network and your access to the model, or name a local folder."
    return BaseModelError(f"the base model cannot be loaded ({reason}).", where=base.source, fix=fix)


def model_digest(base: BaseModel, adapter: Path | None = None) -> str:
    """Return ``sha256:…`` over the weights, configuration and tokenizer of base and adapter, wherever they lie.

    For a base on the Hub its id and revision stand for its files.
    """
    digest = hashlib.sha256()
    if base.path is None:
        digest.update(json.dumps([base.source, base.revision]).encode())
    for folder in (base.path, adapter):
        for file in sorted(folder.iterdir()) if folder else []:
            if file.suffix == ".safetensors" or file.name in _DECISIVE:
                digest.update(file.name.encode() + b"\0" + bytes.fromhex(sha256_of(file)))
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"
