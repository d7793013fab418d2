"""Estimate of the memory that training needs, from the shape of the base and the settings alone.

The terms follow Korthikanti et al. (2022, "Reducing Activation Recomputation in Large Transformer Models"), for
pre-norm blocks with a gated feed-forward layer, a frozen base and adapters on some of its linear layers. A frozen layer
does not keep its input for the backward pass; an adapter keeps its input and its inner features. Full fine-tuning is as
adapters of rank 0 on all layers, with gradients and optimizer state of all weights.
``benchmarks/memory.py`` compares the estimate with the measured peak.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

MIB = 2**20
GIB = 2**30

_NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""Bytes of a weight in NF4 with double quantisation: four bits, a byte of scale per 64 weights, and a float32 per 256
scales (Dettmers et al., 2023, QLoRA)."""
_SLACK = 9 / 8
"""Size of a buffer of our CPU step in terms of what it holds (``training/cpu_step.py``)."""
_OPTIMIZER_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 2, "adafactor": 1, "sgd": 0, "lion": 4}
"""Bytes of optimizer state per trained weight; AdamW keeps two moments in float32."""


@dataclass(frozen=True)
class Linear:
    """A kind of linear layer inside the blocks: its name, input and output features, and number of occurrences."""

    name: str
    inputs: int
    outputs: int
    count: int


@dataclass(frozen=True)
class Shape:
    """The properties of a base on which memory depends.

    Attributes:
        parameters: Number of weights; tied weights count once.
        linear: Linear layers inside the blocks.
        layers: Blocks.
        hidden: Features of a position.
        heads: Query heads.
        query: Features of all query heads.
        key: Features of all key heads.
        feed_forward: Features inside a feed-forward layer.
        vocabulary: Entries of the head.
        context: Longest input in tokens, or None if it is not limited.
    """

    parameters: int
    linear: tuple[Linear, ...]
    layers: int
    hidden: int
    heads: int
    query: int
    key: int
    feed_forward: int
    vocabulary: int
    context: int | None = None


@dataclass(frozen=True)
class Job:
    """The settings on which memory depends.

    Attributes:
        batch_size: Rows of a forward pass.
        accumulation: Forward passes per optimizer step.
        length: Tokens of the longest row.
        rank: Rank of the adapter.
        targets: Names of the layers with an adapter; empty means all.
        weight_bytes: Bytes of a frozen weight, unless it is quantised.
        compute_bytes: Bytes of an activation.
        four_bit: Whether the linear layers are quantised to NF4.
        checkpointing: Whether activations are recomputed in the backward pass.
        optimizer: Name of the optimizer.
        device: ``cuda`` or ``cpu``.
        workers: Threads of our CPU step; 0 if TRL's step computes the batch as one padded tensor.
        group: Work, in tokens, that a thread does together, see :func:`group_tokens`.
        labelled: Share of tokens that carry a loss.
        full: Whether all weights are trained, and there is no adapter.
        fused_attention: Whether the attention kernel never stores the attention matrix.
        decoded_copy: Whether validations decode with a merged copy of the model, see ``training/task_metric.py``.
    """

    batch_size: int
    accumulation: int
    length: int
    rank: int
    targets: tuple[str, ...] = ()
    weight_bytes: float = 4
    compute_bytes: int = 4
    four_bit: bool = False
    checkpointing: bool = False
    optimizer: str = "adamw_torch"
    device: str = "cpu"
    workers: int = 0
    group: int = 512
    labelled: float = 0.5
    fused_attention: bool = True
    full: bool = False
    decoded_copy: bool = False

    @property
    def tokens(self) -> int:
        """Tokens whose activations are in memory at the same time."""
        if not self.workers:
            return self.batch_size * self.length
        share = self.batch_size * self.length // self.workers
        group = self.group * 5 // 6  # its attention counts as a sixth of its work
        return self.workers * min(max(self.length, min(group, share)), self.batch_size * self.length)


def group_tokens(feed_forward: int, compute_bytes: int) -> int:
    """Return about how much work a thread of our CPU step does together, in tokens (``training/cpu_step.py``).

    The fewer groups, the less often the weights are read and an operation is started; the more tokens, the more memory
    is taken and the worse the caches serve. ``benchmarks/training.py --group`` compares numbers of them.

    Args:
        feed_forward: Features inside a feed-forward layer, the widest of a block.
        compute_bytes: Bytes of a feature.
    """
    return max(512, 3 * MIB // (feed_forward * compute_bytes))


@dataclass(frozen=True)
class Estimate:
    """Bytes of each part of the memory.

    Attributes:
        weights: The base, with the copies of it.
        adapter: The adapter's weights; none where the base itself is trained.
        gradients: Gradients of what is trained.
        optimizer: The optimizer's state.
        activations: What the forward pass keeps for the backward pass.
        workspace: Logits and their gradients, and the backward pass of one block: the larger; in our CPU step both.
        runtime: The device's context and the workspaces of the libraries.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int
    runtime: int

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def estimate(shape: Shape, job: Job) -> Estimate:
    """Return the peak memory of a training, in bytes."""
    adapted = [layer for layer in shape.linear if not job.targets or layer.name in job.targets]
    added = sum(layer.count * job.rank * (layer.inputs + layer.outputs) for layer in adapted)
    trained, trained_bytes = (shape.parameters, job.weight_bytes) if job.full else (added, 4)
    inside = sum(layer.count * layer.inputs * layer.outputs for layer in shape.linear)
    quantised = inside if job.four_bit else 0
    kept = _kept_by_a_block(shape, job, adapted)
    # Our CPU step lays the blocks' weights out anew, and has a copy of the head in 16 bits.
    head = shape.vocabulary * shape.hidden if job.compute_bytes < job.weight_bytes else 0
    copies = (inside + head) * job.compute_bytes if job.workers else 0
    copies += shape.parameters * 4 if job.decoded_copy else 0
    return Estimate(
        weights=round((shape.parameters - quantised) * job.weight_bytes + quantised * _NF4_BYTES) + copies,
        adapter=added * 4,
        gradients=round(trained * trained_bytes * max(1, job.workers)),  # every thread accumulates its own
        optimizer=trained * next((n for name, n in _OPTIMIZER_BYTES.items() if job.optimizer.startswith(name)), 8),
        activations=job.tokens * shape.layers * (shape.hidden * job.compute_bytes if job.checkpointing else kept),
        workspace=_workspace(shape, job, kept),
        runtime=_runtime(shape, job),
    )


def _workspace(shape: Shape, job: Job, kept: int) -> int:
    """Return the bytes that come and go: the logits, and the backward pass of one block."""
    if job.workers:  # the step keeps the buffers of both, for every thread
        wide = 3 * shape.feed_forward + 4 * shape.hidden + 7 * shape.query + 8 * shape.key
        product = shape.vocabulary * shape.hidden if job.full and job.compute_bytes < 4 else 0
        passing = (job.tokens * wide + job.workers * product) * job.compute_bytes
        if job.compute_bytes < 4:  # the residual stream, and the backward pass of attention, stay in float32
            passing += 4 * job.tokens * 5 * (shape.hidden + shape.query + shape.key)
        return _logits(shape, job) + round(passing * _SLACK)
    # The widest features of a block, and the residual stream.
    passing = job.compute_bytes * (3 * shape.feed_forward + 2 * shape.hidden)
    return max(_logits(shape, job), job.tokens * (passing + (kept if job.checkpointing else 0)))


def _kept_by_a_block(shape: Shape, job: Job, adapted: Sequence[Linear]) -> int:
    """Return the bytes per token that a block keeps for the backward pass."""
    if job.workers:
        inputs = 2 * shape.hidden + shape.query + shape.feed_forward
        columns = job.rank * len(adapted) if job.compute_bytes < 4 else 0
        features = inputs + columns + 2 * (shape.query + shape.key) + 3 * shape.feed_forward
        return round(job.compute_bytes * features * _SLACK)
    per_block = [layer for layer in adapted if layer.count >= shape.layers]
    sources = {_source(layer, shape) for layer in per_block}
    norms = 2 * shape.hidden * 4  # norms compute in float32
    attention = shape.query + 2 * shape.query + shape.query  # queries, keys and values repeated for all heads, output
    gate = 3 * shape.feed_forward  # gate, its activation, up
    inputs = sum({"norm": 2 * shape.hidden, "attention": shape.query, "gate": shape.feed_forward}[s] for s in sources)
    inner = job.rank * len(per_block)
    matrix = 0 if job.fused_attention else 2 * job.length * shape.heads
    mask = 4 * job.length if job.device == "cpu" else 0  # PyTorch's CPU kernel keeps it in float32 for every block
    return norms + mask + job.compute_bytes * (attention + gate + inputs + inner + matrix)


def _source(layer: Linear, shape: Shape) -> str:
    """Return what a layer's input is the output of: a norm, the attention, or the gate."""
    if layer.inputs == shape.feed_forward:
        return "gate"
    return "attention" if layer.name.startswith(("o_", "out", "dense", "wo", "c_proj")) else "norm"


def _logits(shape: Shape, job: Job) -> int:
    positions, columns = round(job.tokens * job.labelled), shape.vocabulary
    if job.device == "cuda":  # TRL's kernel computes one tile at a time (trl/kernels/chunked_logprob.py)
        positions, columns = min(positions, 4096), min(columns, 32768)
    # Logits, log-probabilities and gradient; the replacement of TRL's kernel (training/lm_head.py) adds two gradients.
    if job.workers:
        return job.workers * 2 * min(positions, 256) * columns * 4  # training/cpu_step.py computes 256 labels at a time
    return (4 if job.device == "cpu" else 3) * positions * columns * 4


def _runtime(shape: Shape, job: Job) -> int:
    # A quantised layer is dequantised to compute with it.
    widest = max((layer.inputs * layer.outputs for layer in shape.linear), default=0) if job.four_bit else 0
    if job.device == "cuda":
        return 700 * MIB + widest * 2  # context and workspaces
    return 8 * MIB + widest * job.compute_bytes


@dataclass(frozen=True)
class Alternative:
    """Settings that fit: parameter -> value, and the resulting estimate."""

    changes: dict[str, int | bool]
    estimate: Estimate

    def __str__(self) -> str:
        changes = ",".join(f"training.{name}={_written(value)}" for name, value in self.changes.items())
        return f"{changes} ({written(self.estimate.total)})"


def alternatives(shape: Shape, job: Job, budget: int, count: int = 2, *, four_bit: bool = True) -> list[Alternative]:
    """Return some settings that fit; those that do not change the trained adapter come first.

    Args:
        shape: The base.
        job: The job that does not fit.
        budget: Bytes that are available.
        count: How many to return at most.
        four_bit: Whether the machine can load a base in 4 bits.
    """
    found: list[Alternative] = []
    for changes, changed in _ways(job, four_bit):
        smaller = largest_batch(shape, changed, budget)
        taken = estimate(shape, smaller)
        if taken.total <= budget and len(found) < count:
            if smaller.batch_size < job.batch_size:
                batch = {"batch_size": smaller.batch_size, "gradient_accumulation_steps": smaller.accumulation}
                changes = {**batch, **changes}
            found.append(Alternative(changes, taken))
    return found


def _ways(job: Job, four_bit: bool) -> Iterator[tuple[dict[str, int | bool], Job]]:
    """Yield other settings, least costly first; each is to be tried with the largest batch that fits."""
    yield {}, job
    ways: list[tuple[dict[str, int | bool], Job]] = []
    if not job.checkpointing:
        ways.append(({"gradient_checkpointing": True}, replace(job, checkpointing=True, workers=0)))
        yield ways[0]
    if four_bit and not job.four_bit and not job.full:
        for changes, changed in [({}, job), *ways]:
            yield {**changes, "load_in_4bit": True}, replace(changed, four_bit=True, workers=0)
    if job.length > 512:
        for changes, changed in [({}, job), *ways]:
            yield {**changes, "max_seq_length": 512}, replace(changed, length=512)


def largest_batch(shape: Shape, job: Job, budget: int) -> Job:
    """Return the job with the largest batch that fits, and accumulation raised so that a step sees as many examples.

    The batch is a divisor of the job's own; it is one row if none fits.
    """
    for size in range(job.batch_size, 0, -1):
        if job.batch_size % size == 0:
            smaller = replace(job, batch_size=size, accumulation=job.accumulation * job.batch_size // size)
            if size == 1 or estimate(shape, smaller).total <= budget:
                return smaller
    raise AssertionError("one divides every batch")


def written(size: float) -> str:
    """Return a number of bytes in MiB or GiB, for messages."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


def _written(value: int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
