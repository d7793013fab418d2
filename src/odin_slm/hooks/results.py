"""What a run has found, as its metrics and tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedro.framework.hooks import hook_impl

from odin_slm.hooks.run_state import CatalogHook, task_of


class ResultsHook(CatalogHook):
    """Log scores, and tag the run with what was published, when the datasets that say so are saved."""

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log each score once, with the ends of its interval; tag the repositories and commits on the Hub."""
        if dataset_name not in ("evaluation_results", "document_results", "publication"):
            return
        import mlflow

        if not mlflow.active_run():
            return
        if dataset_name == "publication":
            mlflow.set_tags(_publication_tags(data))
        elif dataset_name == "evaluation_results":
            mlflow.log_metrics(task_of(self._catalog).tracked(data))
        elif "intervals" in data:  # the task scores whole documents
            scores = [metric.with_interval(data, "document_") for metric in task_of(self._catalog).headline]
            mlflow.log_metrics({name: value for score in scores for name, value in score.items()})


def _publication_tags(publication: Mapping[str, Any]) -> dict[str, str]:
    """Return where each repository lies, and at which commit."""
    tags: dict[str, str] = {}
    for kind in ("dataset", "model"):
        found = publication[kind]
        if found["published"]:
            tags |= {f"hub_{kind}_{key}": found[name] for key, name in _TAGS.items() if found[name]}
    return tags


_TAGS = {"repo": "repo_id", "revision": "revision", "tag": "tag"}
"""Part of a tag's name -> what it says of the record of a publication."""
