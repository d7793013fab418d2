"""The task's own figures of a model in training: validation records are read as in evaluation, and scored.

Loss counts every token alike, and falls where a model grows surer of what it knew. What it extracts may get worse
meanwhile, so the checkpoint with the least loss need not be the one that extracts best.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError
from odin_slm.core.record import Record, full_text
from odin_slm.models.backends import Name
from odin_slm.models.base_model import causal_of
from odin_slm.models.tokens import completion_ids
from odin_slm.tasks import Task
from odin_slm.tasks.metric import Metric


class TaskMetric:
    """Scores a model in training on a sample of validation records, which is the same at every validation.

    Args:
        task: What reads and scores the outputs.
        validation: The validation split.
        tokenizer: The base's tokenizer.
        params: Size and seed of the sample; as many records as two training batches are decoded together.
        backend: The backend that loaded the model.

    Attributes:
        metric: The task's first headline figure, which decides.
        records: The sample.
    """

    def __init__(
        self, task: Task, validation: Sequence[Record], tokenizer: Any, params: TrainingParams, backend: Name
    ) -> None:
        self.metric: Metric = task.headline[0]
        count = min(params.task_metric_samples, len(validation))
        self.records = random.Random(params.seed).sample(list(validation), count)
        longest = max(len(completion_ids(tokenizer, task.taught(record)["output"])) for record in self.records)
        self._budget = math.ceil(longest * 1.25) + 16
        self._task, self._tokenizer, self._batch_size = task, tokenizer, int(params.batch_size) * 2
        self._backend = backend

    @property
    def key(self) -> str:
        """What the Trainer calls the figure that decides."""
        return f"eval_{self.metric.name}"

    def described(self) -> list[Any]:
        """Return what the figures depend on beside the model, for the digest of a run."""
        return [self._task.to_dict(), [full_text(record) for record in self.records]]

    def best(self, history: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the entry of a history that the Trainer kept: the first of those with the best figure."""
        return (max if self.metric.higher_is_better else min)(history, key=lambda entry: float(entry[self.key]))

    def summary(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return what ``training_state`` says of the figure of one validation."""
        value = entry[self.key]
        return {"name": self.metric.name, "title": self.metric.title, "value": value, "records": len(self.records)}

    def figures(self, model: Any) -> dict[str, float]:
        """Return the task's headline figures of the model as it is, named as the Trainer names them.

        In several processes each reads its share of the records, and all return the same.
        """
        from accelerate import PartialState
        from accelerate.utils import gather_object

        state = PartialState()
        share = range(state.process_index, len(self.records), state.num_processes)
        with undisturbed(model, self._backend):
            written = list(zip(share, self._outputs(model, [self.records[index] for index in share]), strict=True))
        outputs = dict(gather_object(written) if state.num_processes > 1 else written)
        rows = [
            {
                **{name: record[name] for name in ("id", "source", "document_id", "input")},
                **{"gold": record["output"], "prediction": outputs[index]},
            }
            for index, record in enumerate(self.records)
        ]
        return {f"eval_{name}": value for name, value in self._task.headline_values(rows).items()}

    def _outputs(self, model: Any, records: Sequence[Record]) -> list[str]:
        """Return an output for each record, held to its text where the task has a grammar."""
        from odin_slm.inference.decoding.constrained_generate import constrained_generate
        from odin_slm.inference.generation import Generator

        if not records:
            return []
        prompts = [full_text(record)[0] for record in records]
        grammars = [self._task.grammar(record["instruction"], record["input"]) for record in records]
        if self._backend == "unsloth":  # its kernels take no cache but their own
            return constrained_generate(model, self._tokenizer, prompts, grammars, self._batch_size, self._budget)
        generator = Generator.of(_for_decoding(model), self._tokenizer)
        names = [record["id"] for record in records]
        rows = generator.rows(prompts, max_new_tokens=self._budget, grammars=grammars, names=names)
        found: dict[int, str] = {}
        generator.write_all(rows, lambda output: found.update({output.index: output.text}), self._batch_size)
        return [found[index] for index in range(len(records))]


def _for_decoding(model: Any) -> Any:
    """Return what computes the same as the model and decodes faster: on a CPU a merged copy with fused layers.

    Adapters beside the weights are two more products for each layer and token. A quantised model stays as it is.
    """
    from odin_slm.inference.decoding.fused_llama import fuse

    causal = causal_of(model)
    if causal.device.type != "cpu" or getattr(causal, "is_quantized", False):
        return causal
    copied = copy.deepcopy(model)
    return fuse(copied.merge_and_unload() if hasattr(copied, "merge_and_unload") else copied)


def with_task_metric(trainer: type[Any], metric: TaskMetric | None) -> type[Any]:
    """Return a trainer class whose validation has the task's figures; without a metric the class itself.

    The Trainer then logs them, and chooses the best checkpoint and stops early by the one that decides.
    """
    if metric is None:
        return trainer
    scorer = metric

    class TaskMetricTrainer(trainer):
        """Scores the model by the task wherever its validation loss is computed."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise BackendError(
                    "a model whose weights are spread over processes cannot be asked while it is trained.",
                    where="training.metric_for_best_model=task",
                    fix="Set it to eval_loss, or train without FSDP and DeepSpeed.",
                )

        def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
            output = super().evaluation_loop(*arguments, **options)
            if math.isfinite(output.metrics.get("eval_loss", math.nan)):
                output.metrics.update(scorer.figures(self.accelerator.unwrap_model(self.model)))
            else:  # it has diverged and says nothing that could be read; nan is never better
                output.metrics[scorer.key] = math.nan
            return output

    return TaskMetricTrainer


@contextmanager
def undisturbed(model: Any, backend: Name) -> Iterator[None]:
    """Ask a model that is being trained: in evaluation mode; modes and random state are then what they were."""
    import numpy
    import torch

    modes = [(module, module.training) for module in model.modules()]
    python, arrays = random.getstate(), numpy.random.get_state()
    if backend == "unsloth":
        from unsloth import FastLanguageModel

        FastLanguageModel.for_inference(model)
    model.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)
        if backend == "unsloth":
            FastLanguageModel.for_training(model)
        for module, training in modes:
            module.training = training
