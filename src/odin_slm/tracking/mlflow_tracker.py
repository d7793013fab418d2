"""The tracker that reports to MLflow's active run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from odin_slm.core.tracker import Tracker

_NAMES = {"loss": "train_loss", "grad_norm": "gradient_norm"}
"""The Trainer's name of a figure -> the metric's."""


class MlflowTracker(Tracker):
    """Metrics go to the active run, trials are runs below it; without an active run nothing is kept."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the figures of one step."""
        import mlflow

        if mlflow.active_run():
            mlflow.log_metrics({_NAMES.get(name, name): value for name, value in metrics.items()}, step=step)

    @contextmanager
    def trial(self, name: str, parameters: Mapping[str, Any]) -> Iterator[None]:
        """Open a nested run."""
        import mlflow

        if not mlflow.active_run():
            yield
            return
        with mlflow.start_run(run_name=name, nested=True):
            mlflow.log_params(dict(parameters))
            yield
