"""GGUF files as llama.cpp writes them, of bases that transformers saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
QUANTISED = ("Q8_0", "Q4_1")


def write_gguf(
    base: Path,
    file: Path,
    *,
    kind: str = "F32",
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
) -> Path:
    """Write a base's GGUF file.

    Args:
        base: Folder of a Llama with a byte-level BPE.
        file: Where to.
        kind: Format of the matrices; vectors are F32, as llama.cpp leaves them.
        metadata: Other or further values; None leaves a key out.
        tensors: Other or further tensors; None leaves one out.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize
    from safetensors.numpy import load_file

    config = json.loads((base / "config.json").read_text())
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    values = {**_metadata(base, config), **(metadata or {})}
    writer = GGUFWriter(file, "llama", use_temp_file=False)
    for key, value in values.items():
        if key == "general.architecture":
            writer.add_string(key, value) if value != "llama" else None
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    weights = {
        name: _turned(name, weight, heads, shared) for name, weight in _named(load_file(base / "model.safetensors"))
    }
    for name, weight in {**weights, **(tensors or {})}.items():
        if weight is None:
            continue
        of = GGMLQuantizationType[kind if weight.ndim > 1 else "F32"]
        writer.add_tensor(name, quantize(weight, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _metadata(base: Path, config: dict[str, Any]) -> dict[str, Any]:
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens += [f"[PAD{number}]" for number in range(len(tokens), config["vocab_size"])]  # as llama.cpp fills up
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    return {
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        "general.source.repo_url": "https://huggingface.co/owner/tiny",
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.block_count": config["num_hidden_layers"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.freq_base": config["rope_parameters"]["rope_theta"],
        "llama.rope.dimension_count": config["head_dim"],
        "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in special else 5 if t.startswith("[PAD") else 1 for t in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.padding_token_id": config["eos_token_id"],
        "tokenizer.chat_template": TEMPLATE,
    }


def _named(weights: dict[str, Any]) -> list[tuple[str, Any]]:
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attn_output",
    }
    names |= {f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"}
    names |= {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
    named = []
    for name, weight in weights.items():
        _, layers, rest = name.removesuffix(".weight").partition("model.layers.")
        number, _, part = rest.partition(".")
        own = f"blk.{number}.{names[part]}" if layers else names[name.removesuffix(".weight")]
        named.append((f"{own}.weight", weight))
    return named


def _turned(name: str, weight: Any, heads: int, shared: int) -> Any:
    """Order the rows of queries and keys as llama.cpp's convert_hf_to_gguf.py does (``LlamaModel.permute``)."""
    count = {"attn_q.weight": heads, "attn_k.weight": shared}.get(name.rpartition("blk.")[2].partition(".")[2])
    if count is None:
        return weight
    return weight.reshape(count, 2, weight.shape[0] // count // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
