"""Starting weights that can copy: a previous-token head and induction heads, built by hand into a Llama.

Extraction is copying, and copying is done by two heads in a row: one that notes at every position which token came
before, and one that looks for the place where the token before was the present one and takes what stands there
(Olsson et al., 2022, "In-context learning and induction heads"). A transformer finds this circuit by itself, but
not early, and a CPU sees few tokens in an hour. These weights begin with it; training keeps, sharpens or
unlearns it like any other weight, and the architecture stays plain Llama. (Mimetic initialisation: Trockman and
Kolter, 2023.)

The residual stream is divided at the start: feature 0 is the same in every token, so that a head without bias can
attend by position alone; the last ``head_dim`` features are empty, for the note about the token before; the rest holds
the token.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_FAST = 6
"""Rotary frequencies that the previous-token head reads: the quickest, whose phase tells neighbours apart."""
_POSITION_SHARPNESS = 240.0
_MATCH_SHARPNESS = 16.0
_COPY_STRENGTH = 1.5
_EMBEDDING_SCALE = 0.3


def circuit_parameters(model: Any) -> list[torch.nn.Parameter]:
    """Return the matrices that hold the circuit: large steps early in training would wash it out."""
    return [parameter for layer in model.model.layers[:2] for parameter in layer.self_attn.parameters()]


def install(model: Any, generator: torch.Generator) -> None:
    """Overwrite parts of a fresh ``LlamaForCausalLM`` with a copying circuit in its first two layers.

    Args:
        model: The model; two layers or more, as many key-value heads as heads, three or more, of an even size from 6.
        generator: Source of the random projection.
    """
    import torch

    config = model.config
    heads, width = config.num_attention_heads, config.hidden_size
    size = width // heads
    noted = range(width - size, width)
    token = range(1, width - size)
    embedding = model.model.embed_tokens.weight
    scale = _EMBEDDING_SCALE
    projection = torch.linalg.qr(torch.randn(len(token), len(token), generator=generator))[0][:size]
    projection = projection * math.sqrt(len(token) / size)
    with torch.no_grad():
        # Large embeddings are steady under a sign-like optimizer; the final norm keeps the tied logits small.
        model.model.norm.weight.fill_(embedding.std().item() / scale)
        embedding.mul_(scale / embedding.std())
        embedding[:, 0] = 3 * scale
        embedding[:, noted.start :] = 0
        for layer in model.model.layers:
            # what a block adds to the stream starts at nothing, or its noise would drown the circuit
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        _note_the_token_before(model.model.layers[0].self_attn, config, token, noted, projection, scale)
        for head in range(heads):
            _copy_what_followed(model.model.layers[1].self_attn, config, head, token, noted, projection, scale)


def _note_the_token_before(
    attention: Any, config: Any, token: range, noted: range, projection: torch.Tensor, scale: float
) -> None:
    """Make head 0 attend to the position before, and write what it holds into the empty features."""
    import torch

    size = len(noted)
    half = size // 2
    frequencies = _frequencies(config)[:_FAST]
    constant = 3.0  # feature 0 after the norm, about
    gain = math.sqrt(_POSITION_SHARPNESS / _FAST) / constant
    query, key = attention.q_proj.weight[:size], attention.k_proj.weight[:size]
    query.zero_()
    key.zero_()
    for j, frequency in enumerate(frequencies):
        # Turned by one position ahead, the key of the position before points where the query does.
        query[j, 0] = gain
        key[j, 0] = gain * math.cos(frequency)
        key[half + j, 0] = gain * math.sin(frequency)
    value, output = attention.v_proj.weight[:size], attention.o_proj.weight[:, :size]
    value.zero_()
    value[:, token.start : token.stop] = projection * math.sqrt(size / len(token))
    output[noted.start :] = torch.eye(size) * scale


def _copy_what_followed(
    attention: Any, config: Any, head: int, token: range, noted: range, projection: torch.Tensor, scale: float
) -> None:
    """Make a head find the place after an earlier copy of the present token, and write the token there."""
    import torch

    size = len(noted)
    half = size // 2
    # Only slowly turning features still match over a few hundred positions.
    slow = [j for j in range(half) if _frequencies(config)[j] < 0.004]
    slots = [*slow, *(half + j for j in slow)]
    begin = (head * len(slots)) % size
    rows = [(begin + i) % size for i in range(len(slots))]
    gain = math.sqrt(_MATCH_SHARPNESS * math.sqrt(size) / len(slots))
    block = slice(head * size, (head + 1) * size)
    query, key = attention.q_proj.weight[block], attention.k_proj.weight[block]
    query.zero_()
    key.zero_()
    for slot, row in zip(slots, rows, strict=True):
        query[slot, token.start : token.stop] = gain * projection[row] * math.sqrt(size / len(token))
        key[slot, noted.start + row] = gain
    value, output = attention.v_proj.weight[block], attention.o_proj.weight[:, block]
    value.zero_()
    mine = [feature for feature in token if feature % config.num_attention_heads == head][:size]
    index = torch.tensor(mine)
    places = torch.arange(len(mine))
    value[places, index] = 1.0
    output[index, places] = scale * _COPY_STRENGTH


def _frequencies(config: Any) -> list[float]:
    """Return the rotary frequencies of a head in radians per position, the quickest first."""
    size = config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"]
    return [theta ** (-2 * j / size) for j in range(size // 2)]
