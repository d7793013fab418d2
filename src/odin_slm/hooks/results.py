"""What a run has found, as its metrics and tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from odin_slm.hooks.run_state import task_of

if TYPE_CHECKING:
    from odin_slm.tasks import Task


class EvaluationMetricsHook:
    """Log the scores when ``evaluation_results`` and ``document_results`` are saved."""

    def __init__(self) -> None:
        self._catalog: Any = None

    @hook_impl
    def before_node_run(self, catalog: Any) -> None:
        """Remember where the task is named."""
        self._catalog = catalog

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log each score once, with the ends of its interval."""
        if dataset_name not in ("evaluation_results", "document_results"):
            return
        import mlflow

        if mlflow.active_run():
            made = task_of(self._catalog)
            documents = dataset_name == "document_results"
            mlflow.log_metrics(_of_documents(made, data) if documents else made.tracked(data))


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


def _of_documents(task: Task, results: Mapping[str, Any]) -> dict[str, float]:
    """Return the headline figures over whole documents; none where the task does not score these."""
    if "intervals" not in results:
        return {}
    found: dict[str, float] = {}
    for metric in task.headline:
        low, high = results["intervals"][metric.name]
        name = f"document_{metric.name}"
        found |= {name: metric.value(results), f"{name}_low": low, f"{name}_high": high}
    return found
