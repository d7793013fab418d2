"""Runs from before, written into the tracking store with their own dates; what is there already is left alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from odin_slm.core import json_text
from odin_slm.core.names import HUB_ID
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks import Task
from odin_slm.tracking.backfill import PastRun
from odin_slm.tracking.registry import Candidate, Registry

DIGEST = "backfill_sha256"
"""Tag that knows a run again by its content."""

_KEY = re.compile(r"[^\w\-./: ]")
_PARAM_CHARACTERS, _PARAMS, _METRICS = 6000, 100, 1000
"""MLflow's limits of a parameter's value, and of the parameters and metrics of one request."""


def track_past_runs(runs: Sequence[PastRun], experiment: str, registered_model: str, task: Task) -> None:
    """Track runs once each, and register the adapters that come with them.

    Args:
        runs: A training before the evaluations of its folder.
        experiment: Name of the MLflow experiment.
        registered_model: Name of the registered model that adapters become versions of.
        task: What these were taught.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    place = found.experiment_id if found else client.create_experiment(experiment)
    known = {run.data.tags[DIGEST]: run for run in all_runs(experiment) if DIGEST in run.data.tags}
    trainings: dict[str, str] = {}
    done: dict[str, str] = {}
    for run in runs:
        tracked = known.get(run.sha256)
        if tracked and tracked.info.status != "FINISHED":  # a backfill was stopped in the middle of it
            client.delete_run(tracked.info.run_id)
            tracked = None
        twin = tracked.info.run_id if tracked else done.get(run.sha256)  # equal content is one run
        number = done[run.sha256] = twin or _track(client, place, run, trainings.get(run.folder))
        if run.stage == "training":
            trainings[run.folder] = number
            if run.adapter and not twin:
                _register(client, run, run.adapter, number, registered_model, task)
        if not twin:
            client.set_terminated(number, "FINISHED", run.ended)


def past_runs(experiment: str) -> dict[str, dict[str, str]]:
    """Return digest -> ``run_id``, ``started``, ``ended`` (UTC), ``model_version`` and ``note`` of each such run."""
    return {
        run.data.tags[DIGEST]: {
            "run_id": run.info.run_id,
            "started": _utc(run.info.start_time),
            "ended": _utc(run.info.end_time),
            "model_version": run.data.tags.get("model_version", "none"),
            "note": run.data.tags.get("backfill_note", ""),
        }
        for run in all_runs(experiment)
        if DIGEST in run.data.tags
    }


def tracked_runs(experiment: str) -> list[dict[str, Any]]:
    """Return the runs of an MLflow experiment as plain values; see :func:`odin_slm.tracking.comparison.compare`."""
    return [
        {
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "started": _utc(run.info.start_time),
            "tags": dict(run.data.tags),
            "params": dict(run.data.params),
            "metrics": dict(run.data.metrics),
        }
        for run in all_runs(experiment)
    ]


def all_runs(experiment: str) -> Iterator[Any]:
    """Yield every run of an MLflow experiment, the oldest first; none where there is no such experiment."""
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    token = None
    while found:
        page = client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _track(client: Any, place: str, run: PastRun, training: str | None) -> str:
    from mlflow.entities import Metric, Param

    tags = {
        DIGEST: run.sha256,
        "experiment": run.folder,
        "stage": run.stage,
        "model_version": "none",
        "backfilled": "true",
        "git_commit": "unknown",
        "git_dirty": "unknown",
        "mlflow.source.name": "kedro run --pipelines backfill",
    }
    if training and run.stage == "evaluation":
        tags |= {"mlflow.parentRunId": training, "training_run_id": training}
    number = str(client.create_run(place, run.started, tags, run.name).info.run_id)
    params = [Param(_KEY.sub("_", name), value[:_PARAM_CHARACTERS]) for name, value in run.params.items()]
    last = max((step for _, _, step in run.metrics), default=0)
    metrics = [
        Metric(_KEY.sub("_", name), value, run.started + (run.ended - run.started) * step // max(last, 1), step)
        for name, value, step in run.metrics
    ]
    for begin in range(0, len(params), _PARAMS):
        client.log_batch(number, params=params[begin : begin + _PARAMS])
    for begin in range(0, len(metrics), _METRICS):
        client.log_batch(number, metrics=metrics[begin : begin + _METRICS])
    for name, text in run.artifacts.items():
        client.log_text(number, text, name)
    return number


def _register(client: Any, run: PastRun, adapter: Path, number: str, name: str, task: Task) -> None:
    """Register an adapter, or note on its run why that cannot be."""
    try:
        stated = json_text.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))[
            "base_model_name_or_path"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        stated = ""
    folder = Path(str(stated))
    if (folder / "config.json").is_file():
        base, base_id = BaseModel(folder.name, folder), folder.name
    elif HUB_ID.fullmatch(str(stated)):
        base, base_id = BaseModel(stated), stated
    else:
        client.set_tag(number, "backfill_note", "not registered: its base is neither a folder here nor a Hub id")
        return
    if not (adapter / "adapter_model.safetensors").is_file():
        client.set_tag(number, "backfill_note", "not registered: its weights are no safetensors")
        return
    candidate = Candidate(
        folder=adapter,
        base=base,
        base_id=base_id,
        instructions={"past": run.instruction or task.shared_instruction},
        task=task,
        predictions=[],
        metrics={},
        experiment=run.folder,
        manifest_sha256=None,
    )
    client.set_tag(number, "model_version", Registry(name).register(candidate, number, challenger=False))


def _utc(milliseconds: int | None) -> str:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC).isoformat(timespec="seconds")
