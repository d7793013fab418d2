"""Packing: the examples of a batch share rows, so that nothing is padded, and attention keeps them apart.

Every example's positions start at zero. Where neither a mask nor a cache is given, transformers makes a block-diagonal
causal mask of that for eager and sdpa attention (``masking_utils.find_packed_sequence_indices``), and FlashAttention
finds the boundaries for its variable-length kernel in it. A batch keeps its examples: steps, losses and gradients are
those of padded rows, up to rounding.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError
from odin_slm.models.backends import Name
from odin_slm.training.collation import IGNORED

logger = logging.getLogger(__name__)

_PROBED = 64
"""Tokens of each of the two examples that attention is tried on."""
_APART = 0.1
"""An example that shares its row may move by this share of what mixing would move it: rounding is far below."""


def packs(model: Any, rows: Sequence[Mapping[str, list[int]]], params: TrainingParams, backend: Name) -> bool:
    """Tell whether the examples of a batch are to share rows, after trying on real ones whether that mixes them.

    Args:
        model: The PEFT model.
        rows: Training rows.
        params: Hyper-parameters.
        backend: What loaded the model.

    Raises:
        BackendError: ``packing`` is true, and the model mixes examples that share a row.
    """
    if params.packing == "auto":
        alone = params.batch_size == 1 or params.neftune_noise_alpha is not None
        if alone or backend == "unsloth" or params.accelerate_config:
            return False
    if not params.packing or keeps_apart(model, rows, backend):
        return bool(params.packing)
    kind, kernel = model.config.model_type, getattr(model.config, "_attn_implementation", None)
    if params.packing == "auto":
        logger.info("Rows are padded: %s with %s attention would mix examples that share one.", kind, kernel)
        return False
    raise BackendError(
        f"{kind} with {kernel} attention mixes examples that share a row.",
        where="training.packing",
        fix="Set it to false or auto, or training.attention to sdpa.",
    )


def keeps_apart(model: Any, rows: Sequence[Mapping[str, list[int]]], backend: Name = "transformers") -> bool:
    """Tell whether an example behind another one in a row is computed as if it stood alone.

    Its hidden states are compared with those of the example alone, on the scale of what another example before it does
    to them where nothing keeps the two apart.
    """
    import torch

    decoder = model.get_base_model().get_decoder()
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
    """Return a trainer that computes the loss of packed rows.

    Args:
        trainer: TRL's trainer.
        capacity: Tokens of a row; None puts a whole batch into one, as the kernels for variable lengths want it.
        backend: What loaded the model.
    """

    class Packing(trainer):
        """Packs a batch on its way to the model; all else sees padded rows, as the mean of evaluation losses does."""

        _total_train_tokens: int

        def compute_loss(self, model: Any, inputs: dict[str, Any], *more: Any, **options: Any) -> Any:
            seen, tokens = self._total_train_tokens, inputs["attention_mask"].sum()
            loss = super().compute_loss(model, pack(inputs, capacity, backend), *more, **options)
            if self.model.training:  # TRL takes the length of the first row for the tokens of the batch
                self._total_train_tokens = seen + int(self.accelerator.gather_for_metrics(tokens).sum())
                self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            return loss

    return Packing


def capacity_of(model: Any, params: TrainingParams, backend: Name) -> int | None:
    """Return the tokens of a packed row; None where the kernel takes a batch as one row of any length."""
    flash = "flash" in str(getattr(model.config, "_attn_implementation", ""))
    return None if flash or backend == "unsloth" else params.max_seq_length


def pack(inputs: Mapping[str, Any], capacity: int | None, backend: Name = "transformers") -> dict[str, Any]:
    """Return a padded batch as packed rows.

    Args:
        inputs: ``input_ids``, ``labels`` and ``attention_mask``, padded on the right, (examples, longest) each.
        capacity: Tokens of a row; None for one row.
        backend: What the rows are for.

    Returns:
        ``input_ids``, ``labels`` and ``position_ids``, (rows, fullest) each; no example's first token carries a loss.
        Tokens that fill a row up have position 0 and see nothing but themselves.
    """
    import torch

    lengths = inputs["attention_mask"].sum(1).tolist()
    bins = best_fit(lengths, capacity or sum(lengths))
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


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put rows into bins, the longest first, each into the fullest bin that has room (Johnson et al., 1974).

    Args:
        lengths: Tokens of each row.
        capacity: Tokens of a bin; a longer row has one to itself.

    Returns:
        Numbers of the rows in each bin.
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
    """Return what tells the examples of one row apart; unsloth wants their lengths too (its ``utils/packing.py``)."""
    import torch

    found = {"position_ids": torch.cat([torch.arange(length, device=device) for length in lengths])[None]}
    if backend == "unsloth":
        found["packed_seq_lengths"] = torch.tensor(list(lengths), dtype=torch.int32, device=device)
    return found
