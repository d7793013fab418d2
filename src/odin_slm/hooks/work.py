"""Working folders, emptied when they have done their work."""

from __future__ import annotations

from typing import Any

from kedro.framework.hooks import hook_impl


class WorkFolderHook:
    """Empty the folders whose catalog entry says ``metadata: {clear_after: [DATASET, …]}`` once these are saved.

    A run that fails keeps them, and the next one goes on from there.
    """

    @hook_impl
    def after_pipeline_run(self, pipeline: Any, catalog: Any) -> None:
        """Empty the folders of a run that made all of it."""
        made = pipeline.all_outputs()
        for name in pipeline.inputs():
            dataset = catalog.get(name)
            awaited = (getattr(dataset, "metadata", None) or {}).get("clear_after")
            if awaited and made >= set(awaited):
                dataset.clear()
