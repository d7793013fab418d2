"""Losses that do not depend on how examples are cut into batches.

Each batch of a validation has the mean over its own tokens as its loss, which the Trainer averages by examples: in a
small batch of short outputs a token would count for more. :func:`by_tokens` weighs the batches.

The last batch of an epoch in several processes is as one process has it. Where the examples do not fill it, accelerate
gives the processes that would go without examples from the beginning of the epoch (``BatchSamplerShard``,
``even_batches``). Here these count in no loss: steps and validations are those of one process, whatever the number of
examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from odin_slm.training.collation import IGNORED


def by_tokens(trainer: type[Any], validation: Sequence[Mapping[str, Sequence[int]]]) -> type[Any]:
    """Return a trainer class whose validation loss is the mean over all labelled tokens, whatever the batches.

    Args:
        trainer: A trainer class.
        validation: The rows with which it is validated, with their ``labels``.
    """
    labels = sum(label != IGNORED for row in validation for label in row["labels"][1:])
    mean = labels / len(validation)

    class ByTokens(trainer):
        """Weighs the loss of a batch by its labels an example, as the Trainer weighs it by its examples."""

        def prediction_step(self, model: Any, inputs: dict[str, Any], *more: Any, **options: Any) -> Any:
            labelled = (inputs["labels"][:, 1:] != IGNORED).sum(1)
            # an example that only fills up a batch has no label, and its loss is left out
            weight = float(labelled.sum()) / max(1, int((labelled > 0).sum())) / mean
            loss, *rest = super().prediction_step(model, inputs, *more, **options)
            return (loss * weight, *rest)

    return ByTokens


def without_repeats(trainer: type[Any]) -> type[Any]:
    """Return a trainer class in whose losses every example counts once for each epoch."""

    class EveryExampleOnce(trainer):
        """Masks the examples that only fill up the last batch."""

        def get_batch_samples(self, epoch_iterator: Iterator[Any], *more: Any, **options: Any) -> Any:
            batches = (self._masked(inputs, self.train_dataset) for inputs in epoch_iterator)
            return super().get_batch_samples(batches, *more, **options)

        def prediction_step(self, model: Any, inputs: dict[str, Any], *more: Any, **options: Any) -> Any:
            return super().prediction_step(model, self._masked(inputs, self.eval_dataset), *more, **options)

        def _masked(self, inputs: dict[str, Any], examples: Any) -> dict[str, Any]:
            rows = len(inputs["labels"])
            last = len(examples) % (rows * self.args.world_size)
            if last and self.accelerator.gradient_state.end_of_dataloader:
                own = max(0, last - rows * self.args.process_index)
                inputs["labels"][own:] = IGNORED
            return inputs

    return EveryExampleOnce
