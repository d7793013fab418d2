"""What a run has found, as its metrics and tags."""

from __future__ import annotations

from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import MemoryDataset


class EvaluationMetricsHook:
    """Log the scores when ``evaluation_results`` is saved."""

    def __init__(self) -> None:
        self._catalog: Any = None

    @hook_impl
    def before_node_run(self, catalog: Any) -> None:
        """Remember where the task is named."""
        self._catalog = catalog

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log each score once, with the ends of its interval."""
        if dataset_name != "evaluation_results":
            return
        import mlflow

        from odin_slm.config.parameters import TaskParams

        if mlflow.active_run():
            known = self._catalog.get("params:task")
            task = known.load() if isinstance(known, MemoryDataset) else "extraction"
            mlflow.log_metrics(TaskParams.model_validate(task).task().tracked(data))


class PublicationHook:
    """Tag the run with the repositories and commits on the Hub when ``publication`` is saved."""

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Set the tags."""
        if dataset_name != "publication":
            return
        import mlflow

        from odin_slm.hub.upload import publication_tags

        published = [data[kind] for kind in ("dataset", "model") if data[kind]["published"]]
        if published and mlflow.active_run():
            mlflow.set_tags(publication_tags(published))
