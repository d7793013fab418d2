"""Nodes of the sweep pipeline."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from odin_slm.config.parameters import SweepParams, TaskParams, TrainingParams, changed
from odin_slm.core.errors import required
from odin_slm.core.record import Record
from odin_slm.core.runtime_environment import one_at_a_time
from odin_slm.core.tracker import tracker
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks import Task


class SweepPlan(NamedTuple):
    """What is varied, around which training, of which task."""

    training: TrainingParams
    params: SweepParams
    task: Task


def plan_sweep(training: TrainingParams, params: SweepParams, task: TaskParams) -> SweepPlan:
    """Put together what says which trainings are compared."""
    return SweepPlan(training, params, task.task())


@one_at_a_time
def compare_trainings(
    base_model: BaseModel,
    train: list[Record],
    val: list[Record],
    sweep_work: Path,
    sweep_plan: SweepPlan,
) -> dict[str, Any]:
    """Train with every drawn combination of values, each tracked as a run below the sweep's.

    Returns:
        ``best`` and ``trials``, see :func:`odin_slm.training.sweep.sweep`.
    """
    from odin_slm.training.sweep import sweep

    train, val = required(train, "train.json"), required(val, "val.json")
    return sweep(base_model, train, val, sweep_work, sweep_plan.training, sweep_plan.params, _trial, sweep_plan.task)


def write_environment(
    sweep_results: dict[str, Any], base_model: BaseModel, training: TrainingParams, params: SweepParams
) -> dict[str, str]:
    """Write the best configuration as the files of an environment.

    Returns:
        File name -> text; ``globals.yml`` names the experiment and the base.
    """
    best = sweep_results["best"]
    name = f"{params.experiment}-best"
    found = ", ".join(f"{key} {value}" for key, value in best["values"].items())
    trials = sweep_results["trials"]
    heading = (
        f"# The best of {len(trials)} trainings of a sweep over {', '.join(params.space)}: {found}.\n"
        f"# Validation loss {best['eval_loss']:.4f}; the others are in sweep_results.json of {params.experiment}.\n"
    )
    values = changed(training, best["values"]).model_dump(mode="json", exclude={"resume"})
    return {
        "globals.yml": f"# Experiment {name}: what a sweep of {params.experiment} found best.\n"
        + yaml.safe_dump({"experiment": name, "base_model": base_model.source}, sort_keys=False, allow_unicode=True),
        "parameters_training.yml": heading + yaml.safe_dump({"training": values}, sort_keys=False, width=120),
    }


@contextmanager
def _trial(number: int, values: dict[str, Any]) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Report a training as a run of its own."""
    with tracker().trial(f"trial-{number}", {f"training.{key}": value for key, value in values.items()}):
        yield tracker().log_metrics
