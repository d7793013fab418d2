"""Hyper-parameter search: Optuna draws the values and keeps a journal of the trials."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from odin_slm.config.parameters import RangeParams, SweepParams, TrainingParams, changed
from odin_slm.core.errors import BackendError, DeviceMemoryError
from odin_slm.core.record import Record
from odin_slm.models.base_model import BaseModel, model_digest

logger = logging.getLogger(__name__)

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
) -> dict[str, Any]:
    """Train with every combination of values that the search draws; the lowest validation loss wins.

    A sweep that was interrupted resumes after its finished trials, if base, records and parameters are the same.

    Args:
        base: The frozen base.
        train: Training records.
        validation: Validation records.
        work: Folder for Optuna's journal and the checkpoints of the trials.
        training: The parameters that are not varied.
        params: Which parameters are varied, and how.
        watch: Opens a trial.

    Returns:
        ``best`` (``trial``, ``values``, ``eval_loss``) and ``trials``, each with ``number``, ``values``,
        ``eval_loss`` and ``seconds``, or with ``failure``.

    Raises:
        BackendError: Every trial failed.
    """
    from odin_slm.training.lora import train_lora

    training = changed(training, {"metric_for_best_model": "eval_loss"})  # which is what trials are compared by
    train = list(train)[: params.train_records]
    name = _digest_of(base, train, validation, training, params)
    study = _study(name, work, params)

    def objective(trial: Any) -> float:
        values = {key: _suggest(trial, key, options) for key, options in params.space.items()}
        folder = work / f"trial-{name}-{trial.number}"  # the name keeps concurrent sweeps apart
        try:
            with watch(trial.number, values) as on_log:
                _, state = train_lora(base, train, validation, folder, changed(training, values), on_log)
        except (BackendError, DeviceMemoryError) as error:
            logger.warning("Trial %d with %s failed: %s", trial.number, values, error)
            trial.set_user_attr("failure", str(error))
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        trial.set_user_attr("seconds", state["seconds"])
        return float(state["best_eval_loss"])

    left = params.count() - len(_finished(study))
    if left > 0:
        study.optimize(objective, n_trials=left, catch=(BackendError, DeviceMemoryError))
    return _result(study)


def _digest_of(
    base: BaseModel,
    train: Sequence[Record],
    validation: Sequence[Record],
    training: TrainingParams,
    params: SweepParams,
) -> str:
    """Return a digest of everything that the losses depend on; studies of equal digest are the same."""
    described: list[Any] = [
        base.source,
        base.revision,
        model_digest(base),
        training.model_dump(mode="json"),
        params.model_dump(mode="json"),
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
    grid = {key: list(values) for key, values in params.space.items() if not isinstance(values, RangeParams)}
    return optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(work / "study.log"))),
        sampler=optuna.samplers.GridSampler(grid, seed=params.seed)
        if params.search == "grid"
        else optuna.samplers.TPESampler(seed=params.seed),
        load_if_exists=True,
    )


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials() if trial.state.is_finished()]


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
