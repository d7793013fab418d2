"""What a GGUF file says of its model: metadata, configuration, tensors by the names of transformers.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What the file does not say, or says in a way
that has no counterpart here, is refused and never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odin_slm.core.errors import BaseModelError

TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""GGUF architecture -> model type of transformers."""
KEYS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
}
"""Metadata of an architecture -> the configuration's name for it."""
_OTHER_KEYS = {"rope.freq_base", "rope.dimension_count", "attention.value_length", "vocab_size"}
_OPTIONAL = {"attention.head_count_kv", "attention.key_length"}
_FIX = "Take the base as safetensors: base_model=owner/name of the Hub, or a folder."


@dataclass(frozen=True)
class Gguf:
    """An open GGUF file.

    Attributes:
        file: The file.
        metadata: Key -> value, as Python values.
        tensors: Name -> tensor as the ``gguf`` package gives it: ``data`` is mapped, not read.
    """

    file: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """The architecture's name in GGUF."""
        return str(self.metadata.get("general.architecture"))

    @property
    def model_type(self) -> str:
        """The architecture's name in transformers."""
        return TYPES[self.architecture]

    @property
    def formats(self) -> dict[str, int]:
        """How many tensors are stored in which format, as ``{"Q4_1": 210, "F32": 61}``."""
        return dict(Counter(tensor.tensor_type.name for tensor in self.tensors.values()).most_common())

    @property
    def dtype(self) -> str:
        """The type to save the weights in: the file's own; of quantised ones bfloat16, far finer than their steps."""
        formats = {tensor.tensor_type.name for tensor in self.tensors.values() if len(tensor.shape) > 1}
        return {frozenset({"F32"}): "float32", frozenset({"F16"}): "float16"}.get(frozenset(formats), "bfloat16")

    def error(self, what: str, fix: str = _FIX) -> BaseModelError:
        """Return an error about this file."""
        return BaseModelError(what, where=str(self.file), fix=fix)


def open_gguf(file: Path) -> Gguf:
    """Read a file's metadata and where its tensors lie.

    Raises:
        BaseModelError: It is no whole GGUF file, one part of several, or of an architecture that is not converted.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        found = Gguf(file, metadata, {tensor.name: tensor for tensor in reader.tensors})
    except (ValueError, KeyError, IndexError, OSError, UnicodeDecodeError) as error:
        raise BaseModelError(
            f"not a whole GGUF file ({str(error).splitlines()[0] if str(error) else type(error).__name__}).",
            where=str(file),
            fix="Fetch it again.",
        ) from None
    if metadata.get("split.count", 1) > 1:
        raise found.error(f"it is one of {metadata['split.count']} parts.", "Join them: gguf-split --merge.")
    if found.architecture not in TYPES:
        raise found.error(f"its architecture is {found.architecture}; {', '.join(TYPES)} are converted.")
    return found


def configuration(gguf: Gguf) -> Any:
    """Return the model's configuration as transformers has it.

    Raises:
        BaseModelError: The file lacks a key, or has one that would change what the model computes.
    """
    from transformers import AutoConfig

    prefix = f"{gguf.architecture}."
    fields = {key.removeprefix(prefix): value for key, value in gguf.metadata.items() if key.startswith(prefix)}
    if unknown := sorted(fields.keys() - KEYS.keys() - _OTHER_KEYS):
        raise gguf.error(f"its metadata has {prefix}{unknown[0]}={fields[unknown[0]]!r}, which is not converted.")
    if missing := sorted((KEYS.keys() | {"rope.freq_base"}) - _OPTIONAL - fields.keys()):
        raise gguf.error(f"its metadata lacks {prefix}{missing[0]}.")
    if listed := sorted(key for key, value in fields.items() if isinstance(value, list)):
        raise gguf.error(f"{prefix}{listed[0]} differs from layer to layer, which is not converted.")
    values = {name: fields[key] for key, name in KEYS.items() if key in fields}
    values["rms_norm_eps"] = _shortest(values["rms_norm_eps"])
    width = values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    for key in ("rope.dimension_count", "attention.value_length"):
        if fields.get(key, width) != width:
            raise gguf.error(f"{prefix}{key} is {fields[key]}, and a head {width} wide; that is not converted.")
    return AutoConfig.for_model(
        gguf.model_type,
        **values,
        vocab_size=int(gguf.tensors["token_embd.weight"].shape[1]) if "token_embd.weight" in gguf.tensors else 0,
        rope_parameters={"rope_type": "default", "rope_theta": fields["rope.freq_base"]},
        tie_word_embeddings="output.weight" not in gguf.tensors,
        dtype=gguf.dtype,
        **{f"{name}_token_id": gguf.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")},
        pad_token_id=gguf.metadata.get("tokenizer.ggml.padding_token_id"),
    )


def places(gguf: Gguf, config: Any) -> tuple[Any, dict[str, str]]:
    """Find the place of every tensor, without reading one.

    Args:
        gguf: The file.
        config: Its :func:`configuration`.

    Returns:
        The model, on the device ``meta``; transformers' name of each of its weights -> the file's.

    Raises:
        BaseModelError: A tensor is missing, of another shape, or has no place in the model.
    """
    import torch
    from gguf import get_tensor_name_map
    from gguf.constants import MODEL_ARCH_NAMES
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == gguf.architecture)
    table = get_tensor_name_map(architecture, config.num_hidden_layers)
    weights = model.state_dict()
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    found = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) or name for name in weights}
    if missing := sorted(set(found.values()) - gguf.tensors.keys()):
        raise gguf.error(f"{len(missing)} tensors are missing, {missing[0]} among them.", "Fetch the file again.")
    if unknown := sorted(gguf.tensors.keys() - set(found.values())):
        raise gguf.error(f"{len(unknown)} tensors have no place in {gguf.model_type}, {unknown[0]} among them.")
    for name, tensor in found.items():
        shape = tuple(int(size) for size in reversed(gguf.tensors[tensor].shape))
        if shape != tuple(weights[name].shape):
            raise gguf.error(f"{tensor} is {shape}, and its metadata ask for {tuple(weights[name].shape)}.")
    return model, found


def read_weight(gguf: Gguf, tensor: str, config: Any) -> Any:
    """Return a weight in full precision, (outputs, inputs), laid out as transformers computes with it.

    Raises:
        BaseModelError: It is in a format that the ``gguf`` package does not read, or a value is not finite.
    """
    import numpy
    from gguf.quants import dequantize

    stored = gguf.tensors[tensor]
    try:
        weight = dequantize(stored.data, stored.tensor_type)
    except NotImplementedError:
        raise gguf.error(f"{tensor} is stored as {stored.tensor_type.name}, which is not read.") from None
    if not numpy.isfinite(weight).all():
        raise gguf.error(f"{tensor} has values that are not finite.", "Fetch the file again.")
    heads = config.num_attention_heads, config.num_key_value_heads
    weight = reordered(weight, tensor, gguf.architecture, heads, to_gguf=False)
    return numpy.require(weight, requirements=["C", "W"])  # of a mapped file it could not be written to


def reordered(weight: Any, tensor: str, architecture: str, heads: tuple[int, int], *, to_gguf: bool) -> Any:
    """Return a weight with its rows as the file has them, or as transformers has them.

    llama.cpp turns the halves of a head against each other in its rotary embedding by neighbours, transformers by
    distance: the rows of the queries and keys of ``llama`` lie in another order there.

    Args:
        weight: The weight, (outputs, inputs).
        tensor: Its name in the file.
        architecture: The model's name in GGUF.
        heads: Number of heads of the queries, and of the keys.
        to_gguf: To the file's order, or back.
    """
    if architecture != "llama" or not tensor.endswith(("attn_q.weight", "attn_k.weight")):
        return weight
    count = heads[tensor.endswith("attn_k.weight")]
    rows, columns = weight.shape
    half = rows // count // 2
    split = (count, 2, half, columns) if to_gguf else (count, half, 2, columns)
    return weight.reshape(split).swapaxes(1, 2).reshape(rows, columns)


def _shortest(value: float) -> float:
    """Return the decimal that a float32 stands for: 1e-05, not 9.999999747378752e-06."""
    import numpy

    return float(str(numpy.float32(value)))
