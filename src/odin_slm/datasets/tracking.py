"""The tracking store as datasets: experiments from before on their way in, and runs on their way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from odin_slm.core.errors import MissingInputError
from odin_slm.core.hashing import sha256_of_files
from odin_slm.datasets import GivenDataset, ReadOnlyDataset
from odin_slm.tasks import load
from odin_slm.tracking.backfill import ExperimentFolder, PastRun
from odin_slm.tracking.past_runs import past_runs, track_past_runs, tracked_runs


class ExperimentFoldersDataset(GivenDataset[list[ExperimentFolder]]):
    """The experiments in a folder, one folder each: their files as texts, and the digest of the weights; read only."""

    REFUSAL = "experiments from before are read-only."

    def load(self) -> list[ExperimentFolder]:
        """Return the folders by name.

        Raises:
            MissingInputError: No folder is named, it is not there, or there is no folder in it.
        """
        place = Path(self._path or "")
        found = sorted(f for f in place.iterdir() if f.is_dir() and f.name[0] != ".") if self._exists() else []
        if not found:
            raise MissingInputError(
                "there is no folder of experiments.",
                where=self._path or "experiments",
                fix="Name the folder that holds them, one folder each: --params experiments=DIR.",
            )
        return [_read(experiment) for experiment in found]

    def _exists(self) -> bool:
        return bool(self._path and Path(self._path).is_dir())


class PastRunsDataset(AbstractDataset[list[PastRun], dict[str, dict[str, str]]]):
    """Runs from before in the tracking store, each tracked once; see :mod:`odin_slm.tracking.past_runs`.

    Args:
        experiment: Name of the MLflow experiment.
        registered_model: Name of the registered model.
    """

    def __init__(self, *, experiment: str, registered_model: str, metadata: dict[str, Any] | None = None) -> None:
        self._experiment = experiment
        self._registered_model = registered_model
        self.metadata = metadata

    def load(self) -> dict[str, dict[str, str]]:
        """Return digest -> run."""
        return past_runs(self._experiment)

    def save(self, data: list[PastRun]) -> None:
        """Track those that are not tracked yet."""
        track_past_runs(data, self._experiment, self._registered_model, load({"name": "extraction"}))

    def _describe(self) -> dict[str, Any]:
        return {"experiment": self._experiment, "registered_model": self._registered_model}


class TrackedRunsDataset(ReadOnlyDataset[list[dict[str, Any]]]):
    """The runs of an MLflow experiment, read only."""

    REFUSAL = "runs are tracked by running."

    def __init__(self, *, experiment: str, metadata: dict[str, Any] | None = None) -> None:
        self._experiment = experiment
        self.metadata = metadata

    def load(self) -> list[dict[str, Any]]:
        """Return the runs, the oldest first."""
        return tracked_runs(self._experiment)

    def _describe(self) -> dict[str, Any]:
        return {"experiment": self._experiment}


_CHECKPOINT = re.compile(r"checkpoint-([0-9]+)(_.*)?")


def _read(folder: Path) -> ExperimentFolder:
    numbered = [(found, f) for f in folder.glob("checkpoint-*") if (found := _CHECKPOINT.fullmatch(f.name))]
    checkpoints = [f for _, f in sorted(numbered, key=lambda pair: int(pair[0][1]))]
    places = [folder, *(folder / name for name in ("final_model", "adapter")), *reversed(checkpoints)]
    files = [
        f for f in sorted(folder.iterdir()) if f.suffix in (".yaml", ".yml") or f.match("evaluation_results*.json")
    ]
    states = [place / "trainer_state.json" for place in places]
    files += [state for state in states if state.is_file()][:1]
    adapters = [place for place in places if (place / "adapter_config.json").is_file()]
    texts, modified = {}, {}
    try:
        for file in files:
            texts[file.name] = file.read_text(encoding="utf-8")
            modified[file.name] = round(file.stat().st_mtime * 1000)
        weights = [adapters[0] / f"adapter_{name}" for name in ("config.json", "model.safetensors")] if adapters else []
        digest = sha256_of_files(file for file in weights if file.is_file()) if adapters else ""
    except (OSError, UnicodeDecodeError) as error:
        unread = file.name if isinstance(error, UnicodeDecodeError) else Path(error.filename or folder).name
        return ExperimentFolder(folder.name, {}, {}, problem=f"{unread} cannot be read ({error}).")
    return ExperimentFolder(folder.name, texts, modified, adapters[0] if adapters else None, digest)
