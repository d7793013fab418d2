"""Many trainings with varied parameters, and the best of them. Optuna draws the values and keeps the record."""

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
"""Called with a trial's number and values; what it gives is told the steps and their figures."""


def sweep(
    base: BaseModel,
    train: Sequence[Record],
    validation: Sequence[Record],
    work: Path,
    training: TrainingParams,
    params: SweepParams,
    watch: Watch,
) -> dict[str, Any]:
    """Train with every drawn combination of values; the least validation loss wins.

    A sweep of the same base, records and parameters that was stopped goes on after the trials that it has finished.

    Args:
        base: The frozen base.
        train: Training records.
        validation: Validation records.
        work: Folder for the study's journal and the trials' checkpoints.
        training: The parameters that are not varied.
        params: What is varied, and how.
        watch: Opens a trial.

    Returns:
        ``best`` (``trial``, ``values``, ``eval_loss``) and ``trials``, each with ``number``, ``values``,
        ``eval_loss`` and ``seconds``, or with ``failure``.

    Raises:
        BackendError: No trial came to an end.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from odin_slm.training.lora import train_lora

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train = list(train)[: params.train_records]
    described: list[Any] = [
        base.source,
        base.revision,
        model_digest(base),
        training.model_dump(mode="json"),
        params.model_dump(mode="json"),
    ]
    # The contents as well: data that are made anew under the same ids would inherit the losses of the old ones.
    fields: tuple[Literal["id", "instruction", "input", "output"], ...] = ("id", "instruction", "input", "output")
    described += [[[record[name] for name in fields] for record in records] for records in (train, validation)]
    name = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    work.mkdir(parents=True, exist_ok=True)
    grid = {key: list(values) for key, values in params.space.items() if not isinstance(values, RangeParams)}
    study = optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(work / "study.log"))),
        sampler=optuna.samplers.GridSampler(grid, seed=params.seed)
        if params.search == "grid"
        else optuna.samplers.TPESampler(seed=params.seed),
        load_if_exists=True,
    )

    def value_of(trial: Any) -> float:
        values = {key: _drawn(trial, key, options) for key, options in params.space.items()}
        folder = work / f"trial-{name}-{trial.number}"  # another sweep may be under way
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

    finished = [trial for trial in study.get_trials() if trial.state.is_finished()]
    left = params.count() - len(finished)
    if left > 0:
        study.optimize(value_of, n_trials=left, catch=(BackendError, DeviceMemoryError))
    trials = [
        {"number": trial.number, "values": trial.params, "eval_loss": trial.value, **trial.user_attrs}
        for trial in study.get_trials()
        if trial.state.is_finished()
    ]
    if all(trial["eval_loss"] is None for trial in trials):
        raise BackendError(
            f"none of {len(trials)} trials came to an end; the last one: {trials[-1].get('failure', 'it was stopped')}",
            where="sweep.space",
            fix="Mend what it names, or narrow the space.",
        )
    best = study.best_trial
    return {"best": {"trial": best.number, "values": best.params, "eval_loss": best.value}, "trials": trials}


def _drawn(trial: Any, key: str, options: Any) -> Any:
    if not isinstance(options, RangeParams):
        return trial.suggest_categorical(key, list(options))
    if options.integer:
        return trial.suggest_int(key, int(options.low), int(options.high), log=options.log)
    return trial.suggest_float(key, options.low, options.high, log=options.log)
