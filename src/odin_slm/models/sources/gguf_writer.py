"""A base or merged model as a GGUF file, for llama.cpp and what is built on it.

It is the way back of :mod:`odin_slm.models.sources.gguf_file`: names, layout and metadata are the same ones, and what
cannot be said in the file so that it is read as it was is refused.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from odin_slm.core.errors import BaseModelError
from odin_slm.models.base_model import BaseModel, load_tokenizer
from odin_slm.models.sources.gguf_file import KEYS, TYPES, reordered
from odin_slm.models.sources.gguf_tokenizer import CONTROL, CUTS, ROLES, UNUSED, USER_DEFINED

Kind = Literal["bf16", "f16", "q8_0"]
"""Format of the matrices; vectors are float32. Rows that 8 bits do not divide, which is by 32, are in f16."""

_NORMAL = 1


def write_gguf(model: BaseModel, file: Path, kind: Kind, *, name: str, license_id: str) -> Path:
    """Write a model's weights, configuration and tokenizer into one file, a tensor at a time.

    Args:
        model: A whole model in a local folder, of a type in :data:`odin_slm.models.sources.gguf_file.TYPES`.
        file: Where to; it is complete, or not there.
        kind: Format of the matrices.
        name: What the file calls the model.
        license_id: Hub id of its licence.

    Raises:
        BaseModelError: Its architecture, position encoding or tokenizer cannot be written so that it is read as it is.
    """
    from gguf import GGUFWriter

    assert model.path is not None
    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    architecture = next((known for known, other in TYPES.items() if other == config["model_type"]), None)
    if architecture is None:
        raise _refused(model, f"a model of the type {config['model_type']} is not written; {', '.join(TYPES)} are")
    if (kind_of_rope := config["rope_parameters"]["rope_type"]) != "default":
        raise _refused(model, f"its positions are scaled ({kind_of_rope}), which is not written")
    if config.get("use_sliding_window"):
        raise _refused(model, "its attention slides over the text, which is not written")
    metadata = {**_sizes(architecture, config), **_tokenizer(model, config["vocab_size"])}
    unfinished = file.with_name(f".{file.name}.part")
    writer = GGUFWriter(unfinished, architecture)
    try:
        writer.add_name(name)
        writer.add_license(license_id)
        for key, value in metadata.items():
            _add(writer, key, value)
        _write_tensors(writer, architecture, model.path, config, kind)
        writer.close()
        os.replace(unfinished, file)
    finally:
        writer.close()
        unfinished.unlink(missing_ok=True)
    return file


def _refused(model: BaseModel, what: str) -> BaseModelError:
    fix = "Convert it with llama.cpp's own script, as GGUF.md beside the merged weights says."
    return BaseModelError(f"{what}.", where=model.source, fix=fix)


def _sizes(architecture: str, config: dict[str, Any]) -> dict[str, Any]:
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    values = {f"{architecture}.{key}": config[name] for key, name in KEYS.items() if config.get(name) is not None}
    return {
        **values,
        f"{architecture}.attention.key_length": width,
        f"{architecture}.attention.value_length": width,
        f"{architecture}.rope.dimension_count": width,
        f"{architecture}.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        f"{architecture}.vocab_size": config["vocab_size"],
    }


def _tokenizer(model: BaseModel, rows: int) -> dict[str, Any]:
    """Return the tokenizer's metadata; rows of the embeddings that no token has become unused tokens."""
    tokenizer = load_tokenizer(model)
    stated = json.loads(tokenizer.backend_tokenizer.to_str())
    cut = _cut(stated)
    if stated["model"]["type"] != "BPE" or cut is None:
        raise _refused(model, f"its tokenizer cuts text in none of the ways that are written ({', '.join(CUTS)})")
    tokens = {number: token for token, number in stated["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, _NORMAL)
    for added in stated["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    numbers = range(max(rows, 1 + max(tokens)))
    beginning = tokenizer("")["input_ids"]
    merges = stated["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": cut,
        "tokenizer.ggml.tokens": [tokens.get(number, f"[PAD{number}]") for number in numbers],
        "tokenizer.ggml.token_type": [types.get(number, UNUSED) for number in numbers],
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        **{f"tokenizer.ggml.{name}_token_id": getattr(tokenizer, f"{role}_token_id") for name, role in ROLES.items()},
        "tokenizer.ggml.add_bos_token": tokenizer.bos_token_id is not None and beginning == [tokenizer.bos_token_id],
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def _cut(stated: dict[str, Any]) -> str | None:
    """Return GGUF's name of the way in which a tokenizer cuts text before its merges; None where it has none here."""
    from tokenizers import Tokenizer, models

    def form(values: dict[str, Any]) -> str:
        parts = {"normalizer": values["normalizer"], "pre_tokenizer": values["pre_tokenizer"]}
        whole = json.dumps(parts, sort_keys=True)
        return whole.replace('"trim_offsets": false', '"trim_offsets": true')  # which moves offsets, and no token

    for name, cut in CUTS.items():
        tokenizer = Tokenizer(models.BPE())
        cut(tokenizer)
        same = form(json.loads(tokenizer.to_str())) == form(stated)
        if same and stated["model"].get("ignore_merges", False) == (name == "llama-bpe"):
            return name
    return None


def _add(writer: Any, key: str, value: Any) -> None:
    if value is None:
        return
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)


def _write_tensors(writer: Any, architecture: str, folder: Path, config: dict[str, Any], kind: Kind) -> None:
    import math

    import numpy
    from gguf import GGMLQuantizationType, LlamaFileType, get_tensor_name_map
    from gguf.constants import GGML_QUANT_SIZES, MODEL_ARCH_NAMES
    from gguf.quants import quantize

    number = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(number, config["num_hidden_layers"])
    placed = []
    for name, shape in _shapes(folder, config).items():
        own = table.get_name(name, try_suffixes=(".weight", ".bias")) or name
        of = GGMLQuantizationType.F32 if len(shape) == 1 else GGMLQuantizationType[kind.upper()]
        if shape[-1] % GGML_QUANT_SIZES[of][0]:
            of = GGMLQuantizationType.F16
        block, size = GGML_QUANT_SIZES[of]
        writer.add_tensor_info(own, shape, numpy.dtype(numpy.float32), math.prod(shape) // block * size, raw_dtype=of)
        placed.append((name, own, of))
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    heads = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    with ExitStack() as stack:
        files = _opened(folder, stack)
        for name, own, of in placed:
            weight = files[name].get_tensor(name).float().numpy()
            writer.write_tensor_data(quantize(reordered(weight, own, architecture, heads, to_gguf=True), of))


def _opened(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Return the name of every weight -> the open file that holds it."""
    from safetensors import safe_open

    files = [stack.enter_context(safe_open(file, framework="pt")) for file in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118


def _shapes(folder: Path, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the weights to be written with their shapes: a head that is the embeddings again is not."""
    tied = config["tie_word_embeddings"]
    with ExitStack() as stack:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in _opened(folder, stack).items()}
    return {name: shape for name, shape in sorted(shapes.items()) if not (tied and name == "lm_head.weight")}
