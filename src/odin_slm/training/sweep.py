"""Hyper-parameter search: Optuna draws the values and keeps a journal of the trials."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from odin_slm.config.parameters import RangeParams, SweepParams, TrainingParams, changed
from odin_slm.core.errors import (
    AdapterError,
    BackendError,
    BaseModelError,
    DeviceMemoryError,
    RecordTooLongError,
    WrongParameterError,
)
from odin_slm.core.hashing import sha256_of
from odin_slm.core.record import Record
from odin_slm.inference.generation import check_config
from odin_slm.models.base_model import BaseModel, check_safetensors, model_digest, trained_weights
from odin_slm.models.tokens import record_counter
from odin_slm.tasks import Task
from odin_slm.training.checkpoints import OPERATIONAL
from odin_slm.training.examples import examples_of

logger = logging.getLogger(__name__)

_FAILURES = (AdapterError, BackendError, BaseModelError, DeviceMemoryError, RecordTooLongError, ValueError, ImportError)
"""What may come of a trial's values: the search goes on with others. A combination that does not go together is a
ValueError of pydantic, and libraries have their own."""
Watch = Callable[[int, dict[str, Any]], AbstractContextManager[Callable[[int, dict[str, float]], None]]]
"""Called with a trial's number and values; yields a function that receives each step and its figures."""


def sweep(
    base: BaseModel,
    train: Sequence[Record],
    validation: Sequence[Record],
    work: Path,
    training: TrainingParams,
    params: SweepParams,
    watch: Watch,
    task: Task,
) -> dict[str, Any]:
    """Train with every combination of values that the search draws; the lowest validation loss wins.

    Each learns from what a training with its values would. A sweep that was interrupted resumes after its finished
    trials, if base, task, records and parameters are the same; what was interrupted is trained again.

    Args:
        base: The frozen base.
        train: Training records.
        validation: Validation records.
        work: Folder for Optuna's journal and the checkpoints of the trials.
        training: The parameters that are not varied.
        params: Which parameters are varied, and how.
        watch: Opens a trial.
        task: What is taught.

    Returns:
        ``best`` (``trial``, ``values``, ``eval_loss``) and ``trials``, each with ``number``, ``values``,
        ``eval_loss`` and ``seconds``, or with ``failure``.

    Raises:
        BackendError: Every trial failed.
        WrongParameterError: A value does not go with the parameters that are not varied.
    """
    from odin_slm.training.lora import train_lora

    train, training = list(train)[: params.train_records], _fixed(training, params)
    name = _digest_of(base, train, validation, training, params, task)
    study = _study(name, work, params)
    lengths = record_counter(base)

    def objective(trial: Any) -> float:
        values = {key: _suggest(trial, key, options) for key, options in params.space.items()}
        folder = work / f"trial-{name}-{trial.number}"  # the name keeps concurrent sweeps apart
        try:
            varied = changed(training, values)  # each value goes with the rest, and yet two may exclude each other
            with watch(trial.number, values) as on_log:
                taught, exercises = examples_of(train, task, lengths, varied)
                _, state = train_lora(base, [*taught, *exercises], validation, folder, varied, on_log, task)
        except _FAILURES as error:
            logger.warning("Trial %d with %s failed: %s", trial.number, values, error)
            trial.set_user_attr("failure", str(error))
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        trial.set_user_attr("seconds", state["seconds"])
        return float(state["best_eval_loss"])

    if (left := _left(study, params)) > 0:
        study.optimize(objective, n_trials=left, catch=_FAILURES)
    return _result(study)


def _digest_of(
    base: BaseModel,
    train: Sequence[Record],
    validation: Sequence[Record],
    training: TrainingParams,
    params: SweepParams,
    task: Task,
) -> str:
    """Return a digest of everything that the losses depend on; studies of equal digest are the same."""
    if initial := training.from_adapter:
        check_config(initial)
        check_safetensors(trained_weights(initial))
    described: list[Any] = [
        base.source,
        base.revision,
        model_digest(base),
        training.model_dump(mode="json", exclude={*OPERATIONAL, "from_adapter"}),
        sha256_of(trained_weights(initial)) if initial else None,
        params.model_dump(mode="json"),
        task.to_dict(),
    ]
    # The contents, not only the ids: data that were made again under the same ids must not inherit the old losses.
    fields: tuple[Literal["id", "instruction", "input", "output"], ...] = ("id", "instruction", "input", "output")
    described += [[[record[name] for name in fields] for record in records] for records in (train, validation)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _study(name: str, work: Path, params: SweepParams) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    work.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(work / "study.log"))),
        sampler=optuna.samplers.TPESampler(seed=params.seed),
        load_if_exists=True,
    )


def _fixed(training: TrainingParams, params: SweepParams) -> TrainingParams:
    """Return what is not varied, with which each value is checked before any training."""
    for key, values in params.space.items():
        for value in values.examples() if isinstance(values, RangeParams) else values:
            try:
                changed(training, {key: value})
            except ValidationError as error:
                raise WrongParameterError(
                    f"{key}={value} does not go with the other training parameters: {error.errors()[0]['msg']}",
                    where="sweep.space",
                    fix="Leave the value out, or change what it does not go with.",
                ) from None
    return changed(training, {"metric_for_best_model": "eval_loss"})  # which is what trials are compared by


def _finished(study: Any) -> list[Any]:
    """Return the trials that have ended by themselves, and none that was interrupted."""
    return [trial for trial in study.get_trials() if trial.value is not None or "failure" in trial.user_attrs]


def _left(study: Any, params: SweepParams) -> int:
    """Return how many trials are left; those of a grid wait then."""
    if params.search == "grid":
        _queue_grid(study, params)
    return params.count() - len(_finished(study))


def _queue_grid(study: Any, params: SweepParams) -> None:
    """Queue the combinations of a grid that have neither ended nor wait.

    Optuna's GridSampler counts a trial that was interrupted as visited, and would never come back to it.
    """
    import optuna

    values = [options for options in params.space.values() if not isinstance(options, RangeParams)]
    combinations = [dict(zip(params.space, drawn, strict=True)) for drawn in itertools.product(*values)]
    random.Random(params.seed).shuffle(combinations)
    waiting = study.get_trials(states=[optuna.trial.TrialState.WAITING])
    taken = [trial.params for trial in _finished(study)]
    taken += [trial.system_attrs["fixed_params"] for trial in waiting]
    for drawn in combinations[: params.count()]:
        if drawn not in taken:
            study.enqueue_trial(drawn)


def _result(study: Any) -> dict[str, Any]:
    trials = [
        {"number": trial.number, "values": trial.params, "eval_loss": trial.value, **trial.user_attrs}
        for trial in _finished(study)
    ]
    if all(trial["eval_loss"] is None for trial in trials):
        raise BackendError(
            f"all {len(trials)} trials failed; the last one: {trials[-1].get('failure', 'it was stopped')}",
            where="sweep.space",
            fix="Correct what the message names, or narrow the space.",
        )
    best = study.best_trial
    return {"best": {"trial": best.number, "values": best.params, "eval_loss": best.value}, "trials": trials}


def _suggest(trial: Any, key: str, options: Any) -> Any:
    if not isinstance(options, RangeParams):
        return trial.suggest_categorical(key, list(options))
    if options.integer:
        return trial.suggest_int(key, int(options.low), int(options.high), log=options.log)
    return trial.suggest_float(key, options.low, options.high, log=options.log)
