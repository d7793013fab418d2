"""Packing: the examples of a batch share rows instead of being padded, and attention keeps them apart.

The positions of every example start at zero. Without a mask or a cache, transformers derives a block-diagonal causal
mask from them for eager and sdpa attention (``masking_utils.find_packed_sequence_indices``), and FlashAttention the
boundaries for its variable-length kernel. A batch contains the same examples as without packing, so steps, losses and
gradients are equal up to rounding.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError
from odin_slm.models.backends import Name
from odin_slm.models.base_model import causal_of
from odin_slm.training.collation import IGNORED

logger = logging.getLogger(__name__)

_PROBED = 64
"""Tokens of each of the two examples on which attention is probed."""
_APART = 0.1
"""Largest deviation that counts as rounding, as a share of the deviation that mixing the examples causes."""


def packs(model: Any, rows: Sequence[Mapping[str, list[int]]], params: TrainingParams, backend: Name) -> bool:
    """Tell whether to pack; probes on real rows whether the model would mix examples that share a row.

    Args:
        model: The PEFT model.
        rows: Training rows.
        params: Hyper-parameters.
        backend: The backend that loaded the model.

    Raises:
        BackendError: ``packing`` is true, but the model mixes examples that share a row.
    """
    if params.packing == "auto":
        alone = params.batch_size == 1 or params.neftune_noise_alpha is not None
        if alone or backend == "unsloth" or params.accelerate_config:
            return False
    if not params.packing or keeps_apart(model, rows, backend):
        return bool(params.packing)
    kind, kernel = model.config.model_type, getattr(model.config, "_attn_implementation", None)
    if params.packing == "auto":
        logger.info("Rows are padded, not packed: %s with %s attention mixes examples that share a row.", kind, kernel)
        return False
    raise BackendError(
        f"{kind} with {kernel} attention mixes examples that share a row.",
        where="training.packing",
        fix="Set it to false or auto, or training.attention to sdpa.",
    )


def keeps_apart(model: Any, rows: Sequence[Mapping[str, list[int]]], backend: Name = "transformers") -> bool:
    """Tell whether the second example in a row has the same hidden states as the example alone.

    The difference is measured relative to the one that arises if nothing keeps the two examples apart.
    """
    import torch

    decoder = causal_of(model).get_decoder()
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return False
    device = next(model.parameters()).device
    first, second = (torch.tensor(rows[n % len(rows)]["input_ids"][:_PROBED], device=device) for n in range(2))
    both = {"input_ids": torch.cat([first, second])[None]}
    training = model.training
    model.eval()

    def states(**inputs: Any) -> Any:
        return decoder(**inputs, use_cache=False).last_hidden_state[0, -len(second) :].float()

    with torch.no_grad():
        alone, mixed = states(input_ids=second[None]), states(**both)
        packed = states(**both, **_boundaries([len(first), len(second)], device, backend))
    model.train(training)
    return bool((packed - alone).norm() < _APART * (mixed - alone).norm())


def with_packing(trainer: type[Any], capacity: int | None, backend: Name) -> type[Any]:
    """Return a trainer class that packs every batch before it computes the loss.

    Args:
        trainer: TRL's trainer class.
        capacity: Tokens of a row; None packs the whole batch into one row, as variable-length kernels expect.
        backend: The backend that loaded the model.
    """

    class PackingTrainer(trainer):
        """Packs a batch for the model only; the rest of the trainer, such as the evaluation loop, sees padded rows."""

        _total_train_tokens: int

        def compute_loss(self, model: Any, inputs: dict[str, Any], *more: Any, **options: Any) -> Any:
            seen, tokens = self._total_train_tokens, inputs["attention_mask"].sum()
            loss = super().compute_loss(model, pack(inputs, capacity, backend), *more, **options)
            if self.model.training:  # TRL would count the tokens of the first row only
                self._total_train_tokens = seen + int(self.accelerator.gather_for_metrics(tokens).sum())
                self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            return loss

    return PackingTrainer


def capacity_of(model: Any, params: TrainingParams, backend: Name) -> int | None:
    """Return the tokens of a packed row; None if the kernel takes the whole batch as one row."""
    flash = "flash" in str(getattr(model.config, "_attn_implementation", ""))
    return None if flash or backend == "unsloth" else params.max_seq_length


def pack(inputs: Mapping[str, Any], capacity: int | None, backend: Name = "transformers") -> dict[str, Any]:
    """Return a padded batch as packed rows.

    Args:
        inputs: ``input_ids``, ``labels`` and ``attention_mask``, padded on the right, (examples, longest) each.
        capacity: Tokens of a row; None for a single row.
        backend: The backend that loaded the model.

    Returns:
        ``input_ids``, ``labels`` and ``position_ids``, (rows, longest row) each. The first token of an example carries
        no loss. Padding tokens have position 0 and attend only to themselves.
    """
    import torch

    lengths = inputs["attention_mask"].sum(1).tolist()
    bins = best_fit_decreasing(lengths, capacity or sum(lengths))
    width = max(sum(lengths[n] for n in members) for members in bins)
    device = inputs["input_ids"].device
    fillers = {"input_ids": 0, "labels": IGNORED, "position_ids": 0}
    packed = {
        name: torch.full((len(bins), width), filler, dtype=torch.long, device=device)
        for name, filler in fillers.items()
    }
    for row, members in enumerate(bins):
        begin = 0
        for n in members:
            end = begin + lengths[n]
            for name in ("input_ids", "labels"):
                packed[name][row, begin:end] = inputs[name][n, : lengths[n]]
            packed["labels"][row, begin] = IGNORED
            packed["position_ids"][row, begin:end] = torch.arange(lengths[n], device=device)
            begin = end
    if backend == "unsloth":
        packed |= _boundaries([lengths[n] for n in bins[0]], device, backend)
    return packed


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put rows into bins, longest first, each into the fullest bin with enough room (Johnson et al., 1974).

    Args:
        lengths: Tokens of each row.
        capacity: Tokens of a bin; a longer row gets a bin of its own.

    Returns:
        The row numbers in each bin.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        fitting = [(left, number) for number, left in enumerate(room) if left >= lengths[row]]
        if fitting:
            _, number = min(fitting)
            bins[number].append(row)
            room[number] -= lengths[row]
        else:
            bins.append([row])
            room.append(capacity - lengths[row])
    return bins


def _boundaries(lengths: Sequence[int], device: Any, backend: Name) -> dict[str, Any]:
    """Return the inputs that mark the examples of a row; unsloth also needs lengths (its ``utils/packing.py``)."""
    import torch

    found = {"position_ids": torch.cat([torch.arange(length, device=device) for length in lengths])[None]}
    if backend == "unsloth":
        found["packed_seq_lengths"] = torch.tensor(list(lengths), dtype=torch.int32, device=device)
    return found
