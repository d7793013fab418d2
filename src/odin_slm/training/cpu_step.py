"""A training step of a Llama-like model on a CPU, with the forward and backward pass written out.

On a CPU, autograd over PEFT's modules spends half of its time outside the matrix products of the base: on two more
products for every adapter, on passes over memory between them, and on fresh memory. This step computes the same loss
and gradients, of adapters or of all weights, and

- adds the adapters to the weights once per step, so that only the backward pass has products for them; 16-bit weights,
  which would lose small updates, have the adapters beside them in the same matrix instead;
- multiplies queries, keys and values by one matrix, gate and up by another; beside adapters, the scale of the norm
  before them is inside the matrix;
- computes the tokens that all examples of a group begin with, such as the instruction, once: their keys and values
  serve all examples, and collect the gradients from all;
- pads nothing but the attention;
- computes the backward pass of 16-bit attention in float32, whose kernel is faster, most of all for short examples;
- reuses its memory from step to step.

Every core computes its own groups, and the gradients are added in a fixed order, so a repeated run yields the same
weights. ``tests/training/test_cpu_step.py`` compares loss and gradients with autograd's; ``benchmarks/training.py``
measures the speed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.models import backends
from odin_slm.models.base_model import causal_of
from odin_slm.models.memory import group_tokens
from odin_slm.training.collation import IGNORED

if TYPE_CHECKING:
    import torch

Example = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels of an example, equally long."""


@dataclass(frozen=True)
class Group:
    """Examples that are computed together: their tokens in one row, the shared prefix once.

    Attributes:
        ids: Token ids, (tokens,).
        positions: Place of each token in its example, (tokens,).
        padded: For each place of the padded examples the token there, (examples x longest,); padding repeats token 0.
        taken: For each token its place in the padded examples, (tokens,).
        shape: Number of examples, and tokens of the longest.
        prefix: Tokens that all examples begin with; they come first.
        scored: Tokens that predict a label, (labels,).
        targets: The labels, (labels,).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    padded: torch.Tensor
    taken: torch.Tensor
    shape: tuple[int, int]
    prefix: int
    scored: torch.Tensor
    targets: torch.Tensor


def group_of(examples: Sequence[Example]) -> Group:
    """Lay out examples; the prefix ends before the first token that predicts a label."""
    import torch

    prefix = shared_prefix(examples)
    longest = -(-max(len(ids) for ids, _ in examples) // _ROUND) * _ROUND
    padded = torch.zeros(len(examples), longest, dtype=torch.long)
    tokens: list[int] = []
    positions: list[int] = []
    taken: list[int] = []
    scored: list[int] = []
    targets: list[int] = []
    for number, (ids, labels) in enumerate(examples):
        begin = prefix if number else 0
        offset = len(tokens) - begin
        tokens += ids[begin:]
        positions += range(begin, len(ids))
        taken += range(number * longest + begin, number * longest + len(ids))
        padded[number, :prefix] = torch.arange(prefix)
        padded[number, begin : len(ids)] = torch.arange(offset + begin, offset + len(ids))
        for place in range(1, len(ids)):
            if labels[place] != IGNORED:
                scored.append(offset + place - 1)
                targets.append(labels[place])
    lists = (torch.tensor(values) for values in (tokens, positions, taken, scored, targets))
    ids_, positions_, taken_, scored_, targets_ = lists
    shape = (len(examples), longest)
    return Group(ids_, positions_, padded.view(-1), taken_, shape, prefix, scored_, targets_)


def shared_prefix(examples: Sequence[Example]) -> int:
    """Return the number of tokens that can be computed once for all examples; 0 for a single one."""
    if len(examples) == 1:
        return 0
    rows = [list(ids) for ids, _ in examples]
    least, greatest = min(rows), max(rows)  # what these begin with, all between them do
    different = (n for n, (one, other) in enumerate(zip(least, greatest, strict=False)) if one != other)
    alike = next(different, len(least) - 1)  # a token of each example is left
    for _, labels in examples:
        alike = next((n - 1 for n in range(1, min(alike + 1, len(labels))) if labels[n] != IGNORED), alike)
    return alike


class Memory:
    """Named buffers of one thread, kept for the next step: fresh memory costs more than the work between products."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return an uninitialised tensor that is valid until the name is asked for again."""
        import torch

        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = torch.empty(size + size // 8, dtype=dtype or torch.float32)
        return buffer[:size].view(shape)


class Projection:
    """Linear layers that read the same input, as one matrix.

    Args:
        modules: The layers: each with a LoRA adapter or without, or trained themselves, all of them.
        norm: Weight of the norm before them, (inputs,), or None.
        dtype: Data type of the products.

    Attributes:
        weight: The matrix, (outputs, inputs + columns). The norm's weight is inside unless it is trained. In float32
            the adapters are inside too; in 16 bits their matrices B are further columns, which read what A makes of
            the inputs.
        adapters: For each adapter its matrices A and B, its factor, and its place among the outputs and the ranks.
    """

    def __init__(self, modules: Sequence[Any], norm: torch.Tensor | None, dtype: torch.dtype) -> None:
        import torch

        self._layers = [getattr(module, "base_layer", module) for module in modules]
        self._trained = self._layers[0].weight.requires_grad
        self._norm = norm if self._trained else None
        self._scale = None if self._trained else norm
        self._merges = dtype == torch.float32
        self._rows: list[slice] = []
        self.adapters: list[tuple[Any, Any, float, slice, slice]] = []
        outputs = ranks = 0
        for module, layer in zip(modules, self._layers, strict=True):
            self._rows.append(slice(outputs, outputs := outputs + len(layer.weight)))
            if layer is not module:
                (name,) = module.active_adapters
                down, up = module.lora_A[name].weight, module.lora_B[name].weight
                places = slice(ranks, ranks := ranks + len(down))
                self.adapters.append((down, up, module.scaling[name], self._rows[-1], places))
        self.inputs = self._layers[0].weight.shape[1]
        self._columns = 0 if self._merges else ranks
        self.weight = torch.zeros(outputs, self.inputs + self._columns, dtype=dtype)
        self._bias = None if all(layer.bias is None for layer in self._layers) else torch.zeros(outputs, dtype=dtype)
        self._lay_out()

    def _lay_out(self) -> None:
        import torch

        for layer, rows in zip(self._layers, self._rows, strict=True):
            if self._scale is None:
                self.weight[rows, : self.inputs] = layer.weight
            else:
                torch.mul(layer.weight, self._scale, out=self.weight[rows, : self.inputs])
            if self._bias is not None and layer.bias is not None:
                self._bias[rows] = layer.bias
        self._factors = None if self._norm is None else self._norm.to(self.weight.dtype)

    def refresh(self) -> None:
        """Take over the present weights of what is trained."""
        import torch

        if self._trained:
            self._lay_out()
        if not self.adapters:
            return
        downs = torch.cat([down for down, *_ in self.adapters])
        self._downs = (downs if self._scale is None else downs * self._scale).to(self.weight.dtype)
        if self._merges:
            self._lay_out()
        for _, up, factor, rows, ranks in self.adapters:
            if self._merges:
                self.weight[rows].addmm_(up, self._downs[ranks], alpha=factor)
            else:
                torch.mul(up, factor, out=self.weight[rows, self.inputs :][:, ranks])

    def zero_gradients(self) -> Gradients:
        """Return zeros for the layers' own weights, as parts of one matrix; the projection itself stands for all."""
        import torch

        if not self._trained:
            return {}
        joined = torch.zeros(self.weight.shape)
        parts = {layer.weight: joined[rows] for layer, rows in zip(self._layers, self._rows, strict=True)}
        return {self: joined, **parts}

    def buffer(self, name: str, tokens: int, memory: Memory) -> torch.Tensor:
        """Return memory for inputs or for their gradient, (tokens, inputs + columns); only the inputs are to be set."""
        return memory(name, tokens, self.weight.shape[1], dtype=self.weight.dtype)

    def __call__(self, x: torch.Tensor, out: torch.Tensor, memory: Memory) -> torch.Tensor:
        """Write the layers' outputs for ``x``, a :meth:`buffer`, to ``out``, (tokens, outputs)."""
        import torch

        if self._columns:
            torch.mm(x[:, : self.inputs], self._downs.t(), out=x[:, self.inputs :])
        torch.mm(self._scaled(x, memory), self.weight.t(), out=out)
        if self._bias is not None:
            out.add_(self._bias)
        return out

    def _scaled(self, x: torch.Tensor, memory: Memory) -> torch.Tensor:
        import torch

        if self._factors is None:
            return x
        return torch.mul(x, self._factors, out=memory("scaled", *x.shape, dtype=x.dtype))

    def add_to(self, stream: torch.Tensor, x: torch.Tensor, memory: Memory) -> None:
        """Add the layers' outputs to the residual stream."""
        if self._merges and self._bias is None:
            stream.addmm_(x, self.weight.t())
        else:
            stream.add_(self(x, memory("added", len(x), len(self.weight), dtype=x.dtype), memory))

    def backward(
        self, x: torch.Tensor, dy: torch.Tensor, gradients: Gradients, name: str, memory: Memory
    ) -> torch.Tensor:
        """Return the gradient of the inputs, in a named buffer, and add those of what is trained.

        Args:
            x: What the forward pass read, (tokens, inputs + columns).
            dy: Gradient of the outputs, (tokens, outputs).
            gradients: What is added to.
            name: Name of the buffer of the result, (tokens, inputs).
            memory: The thread's memory.
        """
        import torch

        whole = torch.mm(dy, self.weight, out=self.buffer(name, len(x), memory))
        x, inner, out, back = x[:, : self.inputs], x[:, self.inputs :], whole[:, : self.inputs], whole[:, self.inputs :]
        if self._trained:
            self._add_own(x, dy, gradients, out, memory)
        if not self.adapters:
            return out
        ranks = len(self._downs)
        if self._merges:
            inner = torch.mm(x, self._downs.t(), out=memory("inner", len(x), ranks, dtype=x.dtype))
            back = memory("back", len(x), ranks, dtype=x.dtype)
        for _, up, factor, rows, places in self.adapters:
            if self._merges:
                torch.mul(dy[:, rows] @ up, factor, out=back[:, places])
            _add_product(gradients[up], dy[:, rows].t(), inner[:, places], memory, factor)
        if not self._merges:
            out.addmm_(back, self._downs)
        products = torch.mm(back.t(), x, out=memory("products", ranks, x.shape[1], dtype=x.dtype))
        if self._scale is not None:
            products.mul_(self._scale)
        for down, _, _, _, places in self.adapters:
            gradients[down].add_(products[places])
        return out

    def _add_own(
        self, x: torch.Tensor, dy: torch.Tensor, gradients: Gradients, dx: torch.Tensor, memory: Memory
    ) -> None:
        """Add the gradients of the layers and of the norm before them, whose output ``dx`` is of; take it through."""
        _add_product(gradients[self], dy.t(), self._scaled(x, memory), memory)
        if self._bias is not None:
            sums = dy.sum(0)
            for layer, rows in zip(self._layers, self._rows, strict=True):
                if layer.bias is not None:
                    gradients[layer.bias].add_(sums[rows])
        if self._norm is not None:
            _add_sums(gradients[self._norm], dx, x, memory)
            dx.mul_(self._factors)


Gradients = dict[Any, "torch.Tensor"]
"""For each trained parameter its gradient in float32."""


def _add_product(
    target: torch.Tensor, left: torch.Tensor, right: torch.Tensor, memory: Memory, factor: float = 1.0
) -> None:
    """Add a product of matrices, in its own data type, to a gradient."""
    import torch

    if target.dtype == left.dtype:
        target.addmm_(left, right, alpha=factor)
    else:
        target.add_(torch.mm(left, right, out=memory("product", *target.shape, dtype=left.dtype)), alpha=factor)


def _add_sums(target: torch.Tensor, one: torch.Tensor, two: torch.Tensor, memory: Memory) -> None:
    """Add the products of two tensors' elements, summed over all dimensions that ``target`` lacks, to a gradient."""
    import torch

    product = torch.mul(one, two, out=memory("sums", *one.shape, dtype=one.dtype))
    target.add_(product.sum(tuple(range(one.dim() - target.dim())), dtype=target.dtype))


class Block:
    """A decoder block: its four projections and, for Qwen 3, the weights of the norms of its queries and keys."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        attention, mlp = block.self_attn, block.mlp
        before, after = block.input_layernorm.weight, block.post_attention_layernorm.weight
        self.qkv = Projection([attention.q_proj, attention.k_proj, attention.v_proj], before, dtype)
        self.o = Projection([attention.o_proj], None, dtype)
        self.gate_up = Projection([mlp.gate_proj, mlp.up_proj], after, dtype)
        self.down = Projection([mlp.down_proj], None, dtype)
        self.projections = (self.qkv, self.o, self.gate_up, self.down)
        self.head_scales: torch.Tensor | None = None
        self.head_norms: list[tuple[torch.Tensor, slice]] = []
        if hasattr(attention, "q_norm"):
            queries, keys = (getattr(attention, f"{kind}_proj").out_features // attention.head_dim for kind in "qk")
            self.head_norms.append((attention.q_norm.weight, slice(queries)))
            self.head_norms.append((attention.k_norm.weight, slice(queries, queries + keys)))

    def refresh(self) -> None:
        """Take over the present weights of what is trained."""
        import torch

        for projection in self.projections:
            projection.refresh()
        if self.head_norms:
            scales = [scale.expand(heads.stop - (heads.start or 0), -1) for scale, heads in self.head_norms]
            self.head_scales = torch.cat(scales)


class CpuStep:
    """Computes losses of a model, and the gradients of what is trained, with a thread for each core.

    Args:
        model: A PEFT model with adapters alone, or a causal language model with all weights trained, of an architecture
            that ``backends.has_cpu_step`` names.
        cores: Number of threads.
        dtype: Data type of the products; the residual stream, the loss and the gradients are float32.

    Attributes:
        tokens: About the most work, in tokens, that a thread does together.
    """

    def __init__(self, model: Any, cores: int, dtype: torch.dtype) -> None:
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        causal = causal_of(model)
        decoder, config = causal.get_decoder(), causal.config
        self._dtype = dtype
        self._heads, self._keys = config.num_attention_heads, config.num_key_value_heads
        self._size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._epsilon = config.rms_norm_eps
        self._rotary = decoder.rotary_emb
        embedding = causal.get_input_embeddings()
        self._embedding, self._unlearned = embedding.weight, embedding.padding_idx
        self._last = decoder.norm.weight, causal.get_output_embeddings().weight
        self._norm, self._head = (weight.detach().to(dtype) for weight in self._last)
        with torch.no_grad():
            self._blocks = [Block(block, dtype) for block in decoder.layers]
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._full = self._embedding.requires_grad
        self._versions: list[int] = []  # of the weights that are laid out; empty after an optimizer's step
        self._hook = register_optimizer_step_post_hook(lambda *_: self._versions.clear())  # fused ones count none
        self.tokens = group_tokens(config.intermediate_size, dtype.itemsize)
        self._memories = [Memory() for _ in range(cores)]
        self._gradients = [self._zero_gradients() for _ in range(cores)]
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))

    def _zero_gradients(self) -> Gradients:
        import torch

        found: Gradients = {}
        for block in self._blocks:
            for projection in block.projections:
                found |= projection.zero_gradients()
        return found | {each: torch.zeros_like(each) for each in self._trained if each not in found}

    def add_gradients(self, examples: Sequence[Example], total: int) -> torch.Tensor:
        """Add the gradients of the examples' loss to the ``grad`` of what is trained.

        Args:
            examples: The examples of a batch.
            total: Divides the sum of the loss over the labelled tokens.

        Returns:
            The loss, a scalar.
        """
        first, *others = self._gradients

        def work(share: list[Group], memory: Memory, gradients: Gradients) -> torch.Tensor:
            if gradients is not first:
                for parameter in self._trained:
                    gradients[parameter].zero_()
            return sum((self._run(group, memory, gradients, total) for group in share), start=torch.zeros(()))

        import torch

        for parameter in self._trained:  # the first core adds to ``grad`` itself
            if parameter.grad is not first[parameter]:
                first[parameter].zero_() if parameter.grad is None else first[parameter].copy_(parameter.grad)
                parameter.grad = first[parameter]
        loss = self._on_every_core(work, examples)
        for each in others:
            for parameter in self._trained:
                first[parameter].add_(each[parameter])
        return loss / total

    def loss(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the sum of the loss over the labelled tokens, a scalar."""

        def work(share: list[Group], memory: Memory, _: Gradients) -> torch.Tensor:
            return sum((self._run(group, memory) for group in share), start=torch.zeros(()))

        import torch

        return self._on_every_core(work, examples)

    def close(self) -> None:
        """End the threads."""
        import torch

        self._hook.remove()
        self._pool.shutdown()
        torch.set_num_threads(self._threads)  # later threads inherit the 1 that the pool's threads set

    def _on_every_core(self, work: Any, examples: Sequence[Example]) -> torch.Tensor:
        import torch

        versions = [parameter._version for parameter in self._trained]
        if versions != self._versions:
            with torch.no_grad():
                for block in self._blocks:
                    block.refresh()
                if self._full:
                    self._norm, self._head = (weight.detach().to(self._dtype) for weight in self._last)
            self._versions = versions
        shares = share_out(examples, len(self._memories), self.tokens)
        losses = list(self._pool.map(work, shares, self._memories, self._gradients))
        return torch.stack(losses).sum()

    def _run(self, group: Group, memory: Memory, gradients: Gradients | None = None, total: int = 1) -> torch.Tensor:
        """Return the summed loss of a group; with ``gradients``, add those of the loss divided by ``total``."""
        import torch

        with torch.no_grad():
            stream = memory("stream", len(group.ids), self._embedding.shape[1])
            stream.copy_(self._embedding[group.ids])
            angles = self._rotary(stream, group.positions[None])
            turns = tuple(angle[0, :, None, : self._size // 2].to(self._dtype) for angle in angles)
            kept = []
            for number, block in enumerate(self._blocks):
                # Without a backward pass, all blocks share the same memory.
                name = "" if gradients is None else str(number)
                kept.append(self._forward(block, stream, group, turns, memory, name))
            loss, change = self._loss(stream, group, memory, gradients, total)
            if gradients is not None:
                for block, values in zip(reversed(self._blocks), reversed(kept), strict=True):
                    self._backward(block, values, change, group, turns, memory, gradients)
                if self._full:
                    if self._unlearned is not None:  # torch.nn.Embedding's padding_idx has no gradient
                        change[group.ids == self._unlearned] = 0
                    gradients[self._embedding].index_add_(0, group.ids, change)
        return loss

    def _forward(
        self, block: Block, stream: torch.Tensor, group: Group, turns: Any, memory: Memory, name: str
    ) -> tuple[Any, ...]:
        """Pass the residual stream through a block; return what the backward pass needs."""
        import torch

        tokens, features = stream.shape
        heads, size = self._heads + 2 * self._keys, self._size

        def buffer(kind: str, *shape: int) -> torch.Tensor:
            return memory(kind + name, *shape, dtype=self._dtype)

        x = block.qkv.buffer("x" + name, tokens, memory)
        deviation = _normalise(stream, self._epsilon, x[:, :features])
        qkv = block.qkv(x, memory("qkv", tokens, heads * size, dtype=self._dtype), memory).view(tokens, heads, size)
        turned, normed = qkv[:, : self._heads + self._keys], None
        if block.head_scales is not None:
            unit = buffer("unit", *turned.shape)
            normed = (unit, _normalise(turned.float(), self._epsilon, unit))
            torch.mul(unit, block.head_scales, out=turned)
        _turn(turned, *turns)
        padded = buffer("padded", len(group.padded), heads * size)
        torch.index_select(qkv.view(tokens, -1), 0, group.padded, out=padded)
        q, k, v = self._by_head(padded, group)
        attended, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
        context = block.o.buffer("context" + name, tokens, memory)
        by_place = attended.transpose(1, 2).reshape(len(group.padded), -1)
        torch.index_select(by_place, 0, group.taken, out=context[:, : block.o.inputs])
        block.o.add_to(stream, context, memory)
        y = block.gate_up.buffer("y" + name, tokens, memory)
        deviation_y = _normalise(stream, self._epsilon, y[:, :features])
        gate_up = block.gate_up(y, buffer("gate_up", tokens, len(block.gate_up.weight)), memory)
        half = block.down.inputs
        activated = torch.ops.aten.silu.out(gate_up[:, :half], out=buffer("activated", tokens, half))
        gated = block.down.buffer("gated" + name, tokens, memory)
        torch.mul(activated, gate_up[:, half:], out=gated[:, :half])
        block.down.add_to(stream, gated, memory)
        return x, deviation, normed, padded, attended, sums, context, y, deviation_y, gate_up, activated, gated

    def _backward(
        self,
        block: Block,
        kept: tuple[Any, ...],
        change: torch.Tensor,
        group: Group,
        turns: Any,
        memory: Memory,
        gradients: Gradients,
    ) -> None:
        """Turn the gradient of a block's output into that of its input, in place, and add those of its weights."""
        import torch

        x, deviation, normed, padded, attended, sums, context, y, deviation_y, gate_up, activated, gated = kept
        tokens, features = change.shape
        heads, size = self._heads + 2 * self._keys, self._size

        def buffer(kind: str, *shape: int) -> torch.Tensor:
            return memory(kind, *shape, dtype=self._dtype)

        def narrow() -> torch.Tensor:
            return change if change.dtype == self._dtype else change.to(self._dtype)

        half = block.down.inputs
        d_gated = block.down.backward(gated, narrow(), gradients, "d_gated", memory)
        d_gate_up = buffer("d_gate_up", *gate_up.shape)
        gate, up = gate_up[:, :half], gate_up[:, half:]
        torch.mul(d_gated, activated, out=d_gate_up[:, half:])
        torch.ops.aten.silu_backward.grad_input(d_gated.mul_(up), gate, grad_input=d_gate_up[:, :half])
        dy = block.gate_up.backward(y, d_gate_up, gradients, "dy", memory)
        _normalise_backward(dy, y[:, :features], deviation_y, change)

        d_context = block.o.backward(context, narrow(), gradients, "d_context", memory)
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        # In float32 beside 16-bit products, too: PyTorch's kernel is slower in bfloat16, above all for short examples.
        d_attended = memory("d_attended", len(group.padded), self._heads * size).zero_()
        d_attended[group.taken] = d_context.float()
        d_heads = d_attended.view(*group.shape, self._heads, size).transpose(1, 2)
        wide = padded if padded.dtype == torch.float32 else memory("wide_padded", *padded.shape).copy_(padded)
        found = backward(d_heads, *self._by_head(wide, group), attended.float(), sums, 0.0, True)
        d_padded = buffer("d_padded", *group.shape, heads, size)
        for part, each in zip(d_padded.split([self._heads, self._keys, self._keys], dim=2), found, strict=True):
            part.copy_(each.transpose(1, 2))
        d_qkv = buffer("d_qkv", tokens, heads * size)
        torch.index_select(d_padded.view(len(group.padded), -1), 0, group.taken, out=d_qkv)
        if group.prefix:  # every example attended to it
            torch.sum(d_padded[:, : group.prefix].flatten(2), 0, out=d_qkv[: group.prefix])
        turned = d_qkv.view(tokens, heads, size)[:, : self._heads + self._keys]
        _turn(turned, turns[0], -turns[1])
        if normed is not None:
            inner = torch.zeros(turned.shape)
            unit, factors = normed
            for norm, places in block.head_norms if self._full else ():
                _add_sums(gradients[norm], turned[:, places], unit[:, places], memory)
            _normalise_backward(turned * block.head_scales, unit, factors, inner)
            turned.copy_(inner)
        dx = block.qkv.backward(x, d_qkv, gradients, "dx", memory)
        _normalise_backward(dx, x[:, :features], deviation, change)

    def _by_head(self, padded: torch.Tensor, group: Group) -> Any:
        """Return queries, keys and values, (examples, heads, longest, size) each."""
        counts = [self._heads, self._keys, self._keys]
        return padded.view(*group.shape, sum(counts), self._size).transpose(1, 2).split(counts, dim=1)

    def _loss(
        self, stream: torch.Tensor, group: Group, memory: Memory, gradients: Gradients | None, total: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed loss, and with ``gradients`` that of the residual stream, (tokens, features)."""
        import torch

        x = memory("x_head", *stream.shape, dtype=self._dtype)
        deviation = _normalise(stream, self._epsilon, x)
        dx = memory("dx_head", *stream.shape, dtype=self._dtype).zero_()
        loss = torch.zeros(())
        for places, targets in zip(group.scored.split(_LABELS), group.targets.split(_LABELS), strict=True):
            normed = x[places]
            hidden = normed * self._norm
            shape = (len(places), len(self._head))
            logits = torch.mm(hidden, self._head.t(), out=memory("logits", *shape, dtype=self._dtype))
            wide = logits if logits.dtype == torch.float32 else memory("wide_logits", *shape).copy_(logits)
            wide.sub_(wide.amax(1, keepdim=True))
            right = wide.gather(1, targets[:, None])
            sums = wide.exp_().sum(1, keepdim=True)
            loss += (sums.log() - right).sum()
            if gradients is not None:
                wide.div_(sums.mul_(total))
                wide[torch.arange(len(places)), targets] -= 1 / total
                d_logits = logits.copy_(wide)
                d_hidden = d_logits @ self._head
                dx[places] = d_hidden * self._norm
                if self._full:
                    norm, head = self._last
                    _add_product(gradients[head], d_logits.t(), hidden, memory)
                    _add_sums(gradients[norm], d_hidden, normed, memory)
        change = memory("change", *stream.shape).zero_()
        if gradients is not None:
            _normalise_backward(dx, x, deviation, change)
        return loss, change


_ROUND = 16
"""The longest example of a group is padded to a multiple of so many tokens: kernels are slow on other lengths."""
_LABELS = 256
"""Labels whose logits are in memory at the same time; with large vocabularies they fill the cache."""


def _normalise(x: torch.Tensor, epsilon: float, out: torch.Tensor) -> torch.Tensor:
    """Write ``x`` divided by its root mean square over the last dimension to ``out``; return the factors."""
    import torch

    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    factors = squares.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    out.copy_(x * factors)  # a product whose output has another data type, and gaps between its rows, takes longer
    return factors


def _normalise_backward(dy: torch.Tensor, y: torch.Tensor, factors: torch.Tensor, change: torch.Tensor) -> None:
    """Add the gradient of a norm's input to ``change``: factors (dy - y mean(dy y))."""
    import torch

    dy, y = dy.float(), y.float()
    means = torch.linalg.vecdot(dy, y).div_(y.shape[-1]).unsqueeze(-1)
    change.addcmul_(dy, factors).addcmul_(y, means.mul_(factors), value=-1)


def _turn(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> None:
    """Rotate the halves of each head by its token's angles, in place (Su et al., 2021, RoFormer)."""
    first, second = x.chunk(2, dim=-1)
    turned = (first * cosines).addcmul_(second, sines, value=-1)
    second.mul_(cosines).addcmul_(first, sines)
    first.copy_(turned)


def share_out(examples: Sequence[Example], cores: int, tokens: int) -> list[list[Group]]:
    """Share the examples of a batch among cores, in groups, so that all are done soon.

    Several ways are compared by the work of the core that has most: groups of similar length, and of similar length
    among the examples that also go on alike where the batch first differs, as those of one instruction do; few groups,
    which start fewer operations, and more of them, which are shared out more evenly.

    Args:
        examples: The examples.
        cores: Number of cores.
        tokens: About the most work of a group, in tokens, its shared prefix counted once; a longer example forms a
            group by itself.

    Returns:
        The groups of each core.
    """
    shared = shared_prefix(examples)
    by_length = sorted(examples, key=lambda each: -len(each[0]))
    by_start = sorted(by_length, key=lambda each: each[0][shared])
    least = math.ceil((sum(_work([each], shared) for each in examples) + cores * shared) / tokens)
    counts = range(min(least, len(examples)), min(least + 3 * cores, len(examples)) + 1)
    ways = (_share_out(_runs(order, shared, count), cores) for order in (by_length, by_start) for count in counts)
    _, shares = min(ways, key=lambda way: way[0])
    return [[group_of(run) for run in share] for share in shares]


def _runs(examples: Sequence[Example], shared: int, count: int) -> list[list[Example]]:
    """Divide examples in their order into so many runs of about equal work, or fewer."""
    works = [_work([each], shared) for each in examples]
    runs: dict[int, list[Example]] = {}
    for example, work, end in zip(examples, works, itertools.accumulate(works), strict=True):
        runs.setdefault(int((end - work / 2) / sum(works) * count), []).append(example)
    return list(runs.values())


def _share_out(runs: Sequence[list[Example]], cores: int) -> tuple[float, list[list[list[Example]]]]:
    """Give the largest run first, each to the core with the least work so far; return the most work, and the shares.

    That is at most a third more than the best way (Graham, 1969, "Bounds on multiprocessing timing anomalies").
    """
    shares: list[list[list[Example]]] = [[] for _ in range(cores)]
    load = [0.0] * cores
    for work, run in sorted(((_work(run) + _START, run) for run in runs), key=lambda each: -each[0]):
        least = load.index(min(load))
        shares[least].append(run)
        load[least] += work
    return max(load), shares


def _work(run: Sequence[Example], shared: int | None = None) -> float:
    """Return the work of a group, in tokens; without its prefix of ``shared`` tokens, if these are given."""
    lengths = [len(ids) for ids, _ in run]
    prefix = shared_prefix(run) * (len(run) - 1) if shared is None else shared * len(run)
    return sum(lengths) - prefix + len(run) * max(lengths) / _ATTENTION


_ATTENTION = 5
"""So many places of padded examples take attention about the time, and the memory, that a token takes all layers."""
_START = 128
"""A group takes as long as its tokens and about so many more, most of all for reading the weights."""


def cpu_step_of(model: Any, params: TrainingParams, processes: int = 1) -> CpuStep | None:
    """Return the step for a model, or None where TRL's own step computes the batch."""
    import torch

    if backends.cuda() or processes > 1 or not backends.has_cpu_step(model.config, params):
        return None
    dtype = torch.float32 if backends.precision(params) == "fp32" else torch.bfloat16
    return CpuStep(model, min(torch.get_num_threads(), int(params.batch_size)), dtype)


def with_cpu_step(trainer: type[Any], step: CpuStep | None) -> type[Any]:
    """Return a trainer class that computes its losses and gradients with a step; the class itself without one."""
    if step is None:
        return trainer
    own = step

    class CpuTrainer(trainer):
        """Computes the same loss as TRL, the mean over the labelled tokens."""

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            model.train()
            examples = _examples(inputs)
            total = _labels(examples) if num_items_in_batch is None else int(num_items_in_batch)
            return own.add_gradients(examples, total)

        def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Any, None, None]:
            examples = _examples(inputs)
            return own.loss(examples) / _labels(examples), None, None

    return CpuTrainer


def _examples(inputs: dict[str, Any]) -> list[Example]:
    lengths = inputs["attention_mask"].sum(1).tolist()
    rows = zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), lengths, strict=True)
    return [(ids[:length], labels[:length]) for ids, labels, length in rows]


def _labels(examples: Sequence[Example]) -> int:
    return sum(label != IGNORED for _, labels in examples for label in labels[1:])
