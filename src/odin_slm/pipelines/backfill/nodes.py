"""Nodes of the backfill pipeline."""

from typing import Any

from odin_slm.core.errors import ExperimentFolderError
from odin_slm.tracking.backfill import ExperimentFolder, PastRun, read_folder


def read_experiments(experiment_folders: list[ExperimentFolder]) -> dict[str, Any]:
    """Read what runs are made of; a broken folder costs itself and nothing else.

    Args:
        experiment_folders: The folders, by name.

    Returns:
        ``runs``: :class:`odin_slm.tracking.backfill.PastRun`, a training before its evaluations; ``skipped``: folder
        name -> reason.
    """
    runs: list[PastRun] = []
    skipped = {}
    for folder in experiment_folders:
        try:
            runs += read_folder(folder)
        except ExperimentFolderError as error:
            skipped[folder.name] = str(error)
    return {"runs": runs, "skipped": skipped}


def choose_runs(past_experiments: dict[str, Any]) -> list[PastRun]:
    """Return the runs to track: those of whole folders."""
    runs: list[PastRun] = past_experiments["runs"]
    return runs


def report_backfill(past_experiments: dict[str, Any], past_runs: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Say what became of every folder.

    Args:
        past_experiments: What was read.
        past_runs: Digest -> the run in the tracking store.

    Returns:
        ``runs`` with folder, stage, source, dates, run id and registered version; ``skipped`` with the reasons. It is
        equal however often the same folders are backfilled.
    """
    runs = [
        {"folder": run.folder, "stage": run.stage, "source": run.source, **past_runs[run.sha256]}
        for run in past_experiments["runs"]
    ]
    return {"runs": runs, "skipped": past_experiments["skipped"]}
