"""Initialisation of copy heads: a previous-token head and induction heads, constructed in a Llama before training.

Extraction is mostly copying, and two consecutive heads can copy. The previous-token head stores at every position which
token came before. The induction head attends to positions whose previous token equals the current one, and copies
their token (Olsson et al., 2022, "In-context learning and induction heads"). A transformer learns this circuit by
itself, but only after many tokens, and a CPU processes few tokens per hour. Here the model starts with the circuit
(mimetic initialisation; Trockman and Kolter, 2023). Training can change it like all other weights, and the architecture
remains a plain Llama.

At the start, the residual stream is divided into three parts. Feature 0 is equal for all tokens, so a head without a
bias can attend by position alone. The last ``head_dim`` features are empty; the previous token is stored there. The
remaining features hold the token itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_HIGH_FREQUENCIES = 6
"""Number of rotary frequencies that the previous-token head uses: the highest, which distinguish neighbours."""
_POSITION_SHARPNESS = 240.0
_MATCH_SHARPNESS = 16.0
_COPY_STRENGTH = 1.5
_EMBEDDING_SCALE = 0.3


def circuit_parameters(model: Any) -> list[torch.nn.Parameter]:
    """Return the matrices that hold the circuit; they need a low learning rate, or early steps would destroy it."""
    return [parameter for layer in model.model.layers[:2] for parameter in layer.self_attn.parameters()]


def install(model: Any, generator: torch.Generator) -> None:
    """Overwrite parts of a new ``LlamaForCausalLM`` with a copying circuit in its first two layers.

    Args:
        model: The model. It needs at least two layers and three heads, one key-value head per head, and an even head
            size of at least 6.
        generator: Source of the random projection.
    """
    import torch

    config = model.config
    heads, width = config.num_attention_heads, config.hidden_size
    size = width // heads
    stored = range(width - size, width)
    token = range(1, width - size)
    embedding = model.model.embed_tokens.weight
    scale = _EMBEDDING_SCALE
    projection = torch.linalg.qr(torch.randn(len(token), len(token), generator=generator))[0][:size]
    projection = projection * math.sqrt(len(token) / size)
    with torch.no_grad():
        # Large embeddings change slowly under a sign-like optimizer; the final norm keeps the tied logits small.
        model.model.norm.weight.fill_(embedding.std().item() / scale)
        embedding.mul_(scale / embedding.std())
        embedding[:, 0] = 3 * scale
        embedding[:, stored.start :] = 0
        for layer in model.model.layers:
            # Every block starts by adding nothing to the residual stream; otherwise its noise would mask the circuit.
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        _init_previous_token_head(model.model.layers[0].self_attn, config, token, stored, projection, scale)
        for head in range(heads):
            _init_induction_head(model.model.layers[1].self_attn, config, head, token, stored, projection, scale)


def _init_previous_token_head(
    attention: Any, config: Any, token: range, stored: range, projection: torch.Tensor, scale: float
) -> None:
    """Make head 0 attend to the previous position, and write its token into the empty features."""
    import torch

    size = len(stored)
    half = size // 2
    frequencies = _frequencies(config)[:_HIGH_FREQUENCIES]
    constant = 3.0  # feature 0 after the norm, approximately
    gain = math.sqrt(_POSITION_SHARPNESS / _HIGH_FREQUENCIES) / constant
    query, key = attention.q_proj.weight[:size], attention.k_proj.weight[:size]
    query.zero_()
    key.zero_()
    for j, frequency in enumerate(frequencies):
        # The rotary embedding of one position aligns the key of the previous position with the query.
        query[j, 0] = gain
        key[j, 0] = gain * math.cos(frequency)
        key[half + j, 0] = gain * math.sin(frequency)
    value, output = attention.v_proj.weight[:size], attention.o_proj.weight[:, :size]
    value.zero_()
    value[:, token.start : token.stop] = projection * math.sqrt(size / len(token))
    output[stored.start :] = torch.eye(size) * scale


def _init_induction_head(
    attention: Any, config: Any, head: int, token: range, stored: range, projection: torch.Tensor, scale: float
) -> None:
    """Make a head attend to the position after an earlier occurrence of the current token, and output its token."""
    import torch

    size = len(stored)
    half = size // 2
    # Only features with low rotary frequencies still match over a few hundred positions.
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
        key[slot, stored.start + row] = gain
    value, output = attention.v_proj.weight[block], attention.o_proj.weight[:, block]
    value.zero_()
    mine = [feature for feature in token if feature % config.num_attention_heads == head][:size]
    index = torch.tensor(mine)
    places = torch.arange(len(mine))
    value[places, index] = 1.0
    output[index, places] = scale * _COPY_STRENGTH


def _frequencies(config: Any) -> list[float]:
    """Return the rotary frequencies of a head in radians per position, highest first."""
    size = config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"]
    return [theta ** (-2 * j / size) for j in range(size // 2)]
