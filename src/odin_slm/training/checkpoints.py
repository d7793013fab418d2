"""The checkpoints of a training run: whose they are, and which one a killed run goes on from."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError
from odin_slm.models.base_model import BaseModel, model_digest

logger = logging.getLogger(__name__)

_CHECKPOINT_FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
"""What a checkpoint needs to be continued; the Trainer writes the last one last."""


_OPERATIONAL = {"resume", "oom", "launcher", "num_processes", "accelerate_config", "generation_samples", "report_to"}
"""Parameters that do not decide the course of training; batch and accumulation do by their product alone."""


def digest_of(base: BaseModel, params: TrainingParams, rows: Sequence[Sequence[Any]], processes: int = 1) -> str:
    """Return a digest of what decides the course of training."""
    settings = params.model_dump(mode="json", exclude={*_OPERATIONAL, "batch_size", "gradient_accumulation_steps"})
    examples = int(params.batch_size) * params.gradient_accumulation_steps * processes
    # The base by its files too: one that was trained anew under its old name is another.
    described = [base.source, base.revision, model_digest(base), settings, examples, *rows]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def noted_split(work: Path) -> dict[str, int]:
    """Return the batch size and accumulation of the run whose checkpoints lie in a folder; nothing without one.

    A run that had to halve its batch goes on with the halved one.
    """
    try:
        split: dict[str, int] = json.loads((work / "job.json").read_text(encoding="utf-8"))["split"]
    except (OSError, ValueError, KeyError):
        return {}
    return split if newest(work) else {}


def prepare(work: Path, job: str, split: Mapping[str, int], *, resume: bool) -> None:
    """Empty the folder for a fresh run, or set incomplete checkpoints aside and leave the others to continue.

    Raises:
        BackendError: The checkpoints belong to another job.
    """
    note = work / "job.json"
    found = _checkpoints(work)
    if resume and found:
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8"))["job"] != job:
            raise BackendError(
                "the checkpoints are of other data, other parameters or another base.",
                where="training.resume",
                fix="Restore what they were made with, or set training.resume=false to start afresh.",
            )
        for folder in found:
            if _is_complete(folder):
                return
            logger.warning("%s is incomplete and set aside.", folder.name)
            aside = folder.with_name(f"incomplete-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier attempt that was cut at the same step
            folder.rename(aside)
    if resume:
        logger.info("There is no checkpoint to continue; training starts afresh.")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    note.write_text(json.dumps({"job": job, "split": dict(split)}), encoding="utf-8")


def newest(work: Path) -> Path | None:
    """Return the newest complete checkpoint, or None."""
    return next((folder for folder in _checkpoints(work) if _is_complete(folder)), None)


def _checkpoints(work: Path) -> list[Path]:
    """Return the checkpoints' folders, the newest first."""
    return sorted((work / "checkpoints").glob("checkpoint-*"), key=lambda folder: -int(folder.name.split("-")[1]))


def _is_complete(folder: Path) -> bool:
    # with several processes there is a random state of each
    return all((folder / name).is_file() for name in _CHECKPOINT_FILES) and any(folder.glob("rng_state*.pth"))
