"""The last batch of an epoch in several processes, as one process has it.

Where the examples do not fill it, accelerate gives the processes that would go without examples from the beginning of
the epoch (``BatchSamplerShard``, ``even_batches``). Here these count in no loss: steps and validations are those of one
process, whatever the number of examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from odin_slm.training.collation import IGNORED


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
