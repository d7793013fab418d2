"""Nodes of the backfill pipeline."""

from typing import Any

from odin_slm.core.errors import ExperimentFolderError
from odin_slm.tracking.backfill import ExperimentFolder, PastRun, read_folder


def read_experiments(experiment_folders: list[ExperimentFolder]) -> tuple[dict[str, Any], list[PastRun]]:
    """Read what runs are made of; a broken folder costs itself and nothing else.

    Returns:
        ``runs``, a training before its evaluations, and ``skipped``: folder name -> reason; and the runs by themselves.
    """
    runs: list[PastRun] = []
    skipped = {}
    for folder in experiment_folders:
        try:
            runs += read_folder(folder)
        except ExperimentFolderError as error:
            skipped[folder.name] = str(error)
    return {"runs": runs, "skipped": skipped}, runs


def report_backfill(past_experiments: dict[str, Any], past_runs: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Say what became of every folder.

    Returns:
        ``runs`` with folder, stage, source, dates, run id and registered version; ``skipped`` with the reasons. It is
        equal however often the same folders are backfilled.
    """
    runs = [
        {"folder": run.folder, "stage": run.stage, "source": run.source, **past_runs[run.sha256]}
        for run in past_experiments["runs"]
    ]
    return {"runs": runs, "skipped": past_experiments["skipped"]}
