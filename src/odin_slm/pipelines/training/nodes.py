"""Nodes of the training pipeline."""

import logging
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TaskParams, TrainingParams
from odin_slm.core.errors import BaseModelError, MissingInputError, required
from odin_slm.core.hashing import sha256_of
from odin_slm.core.record import Record
from odin_slm.core.runtime_environment import one_at_a_time
from odin_slm.core.tracker import tracker
from odin_slm.models.base_model import BaseModel, trained_weights
from odin_slm.models.sources.conversion import provenance_of
from odin_slm.models.tokens import record_counter
from odin_slm.release.provenance import splits_learned
from odin_slm.tasks import load
from odin_slm.training.examples import examples_of

logger = logging.getLogger(__name__)


def check_training(base_model: BaseModel, task: TaskParams, params: TrainingParams) -> dict[str, Any]:
    """Check whether the training can run here, from the base's configuration and tokenizer.

    A tokenizer that no grammar can hold is a warning: evaluation would be the first to say so, after the training.

    Returns:
        The task, architecture, licence, sizes, the machine, and the memory that each part takes, in bytes.
    """
    from odin_slm.models import preflight
    from odin_slm.models.base_model import load_tokenizer
    from odin_slm.models.tokenizer_probe import probe_tokenizer
    from odin_slm.training.initial_adapter import describe_initial

    describe_initial(base_model, params)
    found = preflight.check(base_model, params)
    try:
        probe_tokenizer(load_tokenizer(base_model))
    except BaseModelError as error:  # its outputs can still be scored as the model likes to write them
        logger.warning("The evaluation will be free or fail: %s", error)
    return {**found.report(), "task": task.task().to_dict()}


@one_at_a_time
def train_adapter(
    base_model: BaseModel,
    training_preflight: dict[str, Any],
    train: list[Record],
    val: list[Record],
    training_work: Path,
    params: TrainingParams,
) -> tuple[Path, dict[str, Any]]:
    """Train an adapter, or all weights of the base, and keep the best checkpoint.

    Args:
        base_model: The base.
        training_preflight: That the training can run here; what ``auto`` came to; the task, which may choose the
            checkpoint.
        train: Training records.
        val: Validation records.
        training_work: Folder for checkpoints.
        params: Hyper-parameters.

    Returns:
        Folder of the adapter, or of the whole model, and its tokenizer; the state of training: history, best step,
        time, tokens, settings, ``exercises`` (how many the task made of the records), what the base was converted from
        (``base_conversion``; None for one that was not), and the sha256 of the splits (``data``) and of the trained
        weights (``adapter_sha256``), which tell later what belongs together.

    Raises:
        MissingInputError: A split is absent or empty.
        WrongParameterError: ``params.repeats`` names what no record is of or lists, or ``params.swap_names`` asks for
            other names where the task's texts hold none.
    """
    from odin_slm.training.callbacks import with_throughput
    from odin_slm.training.lora import train_lora

    for split, records in (("train.json", train), ("val.json", val)):
        if not required(records, split):
            raise MissingInputError(
                "it holds no records, and training needs some to learn from and some to choose the checkpoint by.",
                where=split,
                fix="Set combination.validation_ratio above 0, or add documents, and run kedro run --pipelines data.",
            )
    task = load(training_preflight["task"])
    lengths = record_counter(base_model)
    taught, exercises = examples_of(train, task, lengths, params)
    examples = [*taught, *exercises]
    tokens = sum(lengths(examples))
    if params.batch_size == "auto":
        job = training_preflight["job"]
        batch = {"batch_size": job["batch_size"], "gradient_accumulation_steps": job["accumulation"]}
        params = params.model_copy(update=batch)
    on_log = with_throughput(tokens, tracker().log_metrics)
    adapter, state = train_lora(base_model, examples, val, training_work, params, on_log, task)
    return adapter, {
        **state,
        "train_records": len(train),
        "exercises": len(exercises),
        "data": splits_learned(train, val),
        "adapter_sha256": sha256_of(trained_weights(adapter)),
        "base_conversion": provenance_of(base_model.path) if base_model.path else None,
    }


def describe_task(
    adapter: Path, training_state: dict[str, Any] | None, train: list[Record], task: TaskParams
) -> dict[str, Any]:
    """Say what an adapter was taught, for whoever serves it or trains it further; it goes into the adapter's folder.

    Returns:
        ``name`` and ``options`` of the task, ``instructions``: what the records of each source asked, and ``learned``:
        the sha256 of the splits of every training in turn, None where an earlier one is not known.
    """
    asked = {record["source"]: record["instruction"] for record in train}
    state = required(training_state, "training_state.json")
    earlier = state["from_adapter"]["learned"] if "from_adapter" in state else []
    return {
        **task.task().to_dict(),
        "instructions": dict(sorted(asked.items())),
        "learned": None if earlier is None else [*earlier, state["data"]],
    }
