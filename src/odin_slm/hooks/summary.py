"""What a run says at the terminal: what training would take, and at the end what was found and where it lies."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from kedro.framework.hooks import hook_impl

from odin_slm.hooks.artifacts import local_path
from odin_slm.hooks.run_state import state_of, task_of
from odin_slm.reporting.summary import RunSummary, print_summary

_STAGES = ("ingestion", "combination", "training", "evaluation", "publishing")


class SummaryHook:
    """Say before a training what it would take; after an evaluation or a staging what was found and where it lies."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._started = 0.0

    @hook_impl
    def before_pipeline_run(self) -> None:
        """Start the clocks."""
        self._seconds = defaultdict(float)
        self._started = time.perf_counter()

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Print what training would take when ``training_preflight`` is saved."""
        if dataset_name == "training_preflight":
            from odin_slm.models import preflight

            preflight.show(data)

    @hook_impl
    def after_node_run(self, node: Any) -> None:
        """Count the time since the last node, reading and writing included, for the node's pipeline."""
        now = time.perf_counter()
        stage = next((stage for stage in _STAGES if stage in node.tags), "other")
        self._seconds[stage] += now - self._started
        self._started = now

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> None:
        """Print the summary."""
        names = pipeline.datasets()
        state = state_of(catalog)
        if state is None or not names & {"evaluation_results", "model_release"}:
            return
        import mlflow

        active = mlflow.active_run()
        places = {
            name: os.path.relpath(path, state.root)
            for name in ("report", "adapter", "model_release", "dataset_release")
            if name in names and (path := local_path(catalog, name)) and path.exists()
        }
        if "publication" in names and catalog.exists("publication"):
            places |= hub_places(catalog.load("publication"))
        task = task_of(catalog)
        print_summary(
            RunSummary(
                experiment=state.experiment,
                headline=task.measures,
                unit=task.unit,
                env=run_params.get("env"),
                values={name: catalog.load(name) for name in sorted(names & RunSummary.READS) if catalog.exists(name)},
                places=places,
                tracking=(mlflow.get_experiment(active.info.experiment_id).name, active.info.run_id)
                if active
                else None,
                seconds={stage: self._seconds[stage] for stage in (*_STAGES, "other") if stage in self._seconds},
            )
        )


def hub_places(publication: Mapping[str, Any]) -> dict[str, str]:
    """Return where the published repositories lie, at which commit, and whether others see them."""
    places = {}
    for kind in ("model", "dataset"):
        found = publication[kind]
        if found["published"]:
            seen = "private" if found["private"] else "public"
            places[f"hub_{kind}"] = f"{found['repo_id']} at {found['revision'][:12]}, {seen}, verified"
    return places
