"""The layers of a Llama for decoding on a CPU: the same sums in fewer and larger operations.

One token of a small model is so little work that what lies between its products takes as long as they do. Here query,
key and value are one product, and so are gate and up; attention reads the shared heads of keys and values where they
lie in the cache, which transformers copies once per head; masks are made once per token and not once per layer; only
attention sees padding, the products are of real tokens alone.
``benchmarks/generation.py`` prints what it is worth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from odin_slm.inference.decoding.onednn_linear import bucket


class FusedLlama(torch.nn.Module):
    """What a ``LlamaModel`` computes.

    Args:
        model: A ``LlamaModel`` that :func:`fuse` found fit; its parts are taken over.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config = model.config
        self.embed_tokens, self.norm, self.rotary_emb = model.embed_tokens, model.norm, model.rotary_emb
        self.layers = torch.nn.ModuleList()
        while len(model.layers):  # one by one, so that weights are in memory twice for one layer only
            self.layers.append(_FusedLayer(model.layers.pop(0), model.config))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> Any:
        """Return the last hidden states, as a ``LlamaModel`` does; see there."""
        from transformers.modeling_outputs import BaseModelOutputWithPast

        tokens, known = input_ids.shape[1], past_key_values.get_seq_length() if past_key_values is not None else 0
        if attention_mask is None:
            attention_mask = input_ids.new_ones(1, known + tokens)
        columns = attention_mask.shape[-1]
        if position_ids is None:
            position_ids = torch.arange(columns - tokens, columns, device=input_ids.device)[None]
        hidden = self.embed_tokens(input_ids)
        cos, sin = self.rotary_emb(hidden, position_ids=position_ids.expand(input_ids.shape))
        half = cos.shape[-1] // 2
        padding = _Padding(input_ids, attention_mask)
        cos, sin = (padding.without(part)[:, None] for part in (cos, sin))
        rotation = cos, torch.cat((-sin[..., :half], sin[..., half:]), -1)
        mask = attention_mask if attention_mask.dim() == 4 else _additive(attention_mask, tokens, hidden.dtype)
        # queries that share a head of keys are its rows
        mask = mask.repeat(1, 1, self.config.num_attention_heads // self.config.num_key_value_heads, 1)
        hidden = padding.without(hidden)
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, padding, rotation, mask, past_key_values, number)
        states = padding.added(self.norm(hidden))
        return BaseModelOutputWithPast(last_hidden_state=states, past_key_values=past_key_values)


class _Padding:
    """Where the tokens of a batch are padding, shape (rows, tokens).

    Args:
        ids: Token ids, shape (rows, tokens).
        mask: Which columns are no padding, shape (rows, columns), the tokens last; one of four dimensions names none.
    """

    def __init__(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        self.shape = ids.shape
        kept = mask[:, -ids.shape[1] :].bool() if mask.dim() == 2 and ids.shape[1] > 1 else None
        self._kept = None
        if kept is not None and not kept.all():
            real = kept.expand(ids.shape).flatten().nonzero()[:, 0]
            # the last one again, as often as makes a number of rows that products are fast for
            self._kept = functional.pad(real, (0, bucket(len(real)) - len(real)), value=int(real[-1]))

    def without(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of shape (rows, tokens, …) as those of real tokens, (real tokens or some more, …)."""
        flat = values.flatten(0, 1)
        return flat if self._kept is None else flat[self._kept]

    def added(self, values: torch.Tensor) -> torch.Tensor:
        """Return what :meth:`without` returned in its first shape, zero where there is padding."""
        if self._kept is not None:
            flat = values.new_zeros(self.shape.numel(), *values.shape[1:])
            values = flat.index_copy_(0, self._kept, values)
        return values.unflatten(0, self.shape)


class _FusedLayer(torch.nn.Module):
    def __init__(self, layer: Any, config: Any) -> None:
        super().__init__()
        attention, forward = layer.self_attn, layer.mlp
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self.features = attention.head_dim
        self.qkv = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.output = attention.o_proj
        self.gate_up, self.down = _joined(forward.gate_proj, forward.up_proj), forward.down_proj
        self.input_norm, self.output_norm = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.epsilon = config.rms_norm_eps

    def forward(
        self,
        hidden: torch.Tensor,
        padding: _Padding,
        rotation: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        cache: Any,
        number: int,
    ) -> torch.Tensor:
        """Return hidden states of shape (real tokens, width)."""
        hidden = hidden + self._attend(self._norm(hidden, self.input_norm), padding, rotation, mask, cache, number)
        gate, up = self.gate_up(self._norm(hidden, self.output_norm)).chunk(2, -1)
        added: torch.Tensor = self.down(functional.silu(gate) * up)
        return hidden + added

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self.epsilon)

    def _attend(
        self,
        hidden: torch.Tensor,
        padding: _Padding,
        rotation: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        cache: Any,
        number: int,
    ) -> torch.Tensor:
        rows, tokens = padding.shape
        cos, sin = rotation
        heads = self.qkv(hidden).view(len(hidden), -1, self.features)
        turned, values = heads.split((self.heads + self.shared, self.shared), 1)
        # the sign of the turned half is in the sine
        turned = torch.addcmul(turned * cos, turned.roll(self.features // 2, -1), sin)
        queries, keys = padding.added(turned).transpose(1, 2).split((self.heads, self.shared), 1)
        values = padding.added(values).transpose(1, 2)
        if cache is not None:
            keys, values = cache.update(keys, values, number)
        # queries that share a head of keys are its rows: (rows, shared, group x tokens, features)
        queries = queries.reshape(rows, self.shared, -1, self.features)
        seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        seen = seen.view(rows, self.heads, tokens, self.features).transpose(1, 2)
        attended: torch.Tensor = self.output(padding.without(seen.flatten(2)))
        return attended


def _joined(*linears: torch.nn.Linear) -> torch.nn.Linear:
    """Return one layer that computes what several compute of the same input."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    joined = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    joined.weight = torch.nn.Parameter(weight, requires_grad=False)
    return joined


def _additive(mask: torch.Tensor, tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to the scores of attention, shape (rows, 1, tokens, columns).

    Not minus infinity: a token of padding sees nothing, and would become undefined.
    """
    columns = mask.shape[1]
    seen = mask[:, None, None, :].bool()
    if tokens > 1:
        seen = seen & torch.ones(tokens, columns, dtype=torch.bool, device=mask.device).tril(columns - tokens)
    return torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill_(~seen, torch.finfo(dtype).min)


def fuse(model: Any) -> Any:
    """Replace the layers of a Llama in place; another model stays as it is.

    The model can be asked afterwards, neither trained nor saved.
    """
    from transformers import LlamaForCausalLM

    config = model.config
    if type(model) is not LlamaForCausalLM or config.hidden_act != "silu":
        return model
    if any(type(part) is not torch.nn.Linear or part.bias is not None for part in _products(model.model)):
        return model
    model.model = FusedLlama(model.model)
    return model


def _products(model: Any) -> list[Any]:
    return [
        getattr(part, f"{name}_proj")
        for layer in model.layers
        for part, names in ((layer.self_attn, "qkvo"), (layer.mlp, ("gate", "up", "down")))
        for name in names
    ]
