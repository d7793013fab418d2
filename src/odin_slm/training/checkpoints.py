"""The checkpoints of a training run: which run they belong to, and from which one a killed run resumes."""

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
from odin_slm.models.base_model import BaseModel, model_digest, trained_weights

logger = logging.getLogger(__name__)

_CHECKPOINT_FILES = ("optimizer.pt", "scheduler.pt", "trainer_state.json")
"""Files that a run needs to resume from a checkpoint, after its weights; the Trainer writes them in this order."""
_OPERATIONAL = {"resume", "oom", "launcher", "num_processes", "accelerate_config", "generation_samples", "report_to"}
"""Parameters that do not affect the result. Batch size and accumulation affect it only by their product."""


def digest_of(base: BaseModel, params: TrainingParams, rows: Sequence[Sequence[Any]], processes: int = 1) -> str:
    """Return a digest of everything that the result of a training depends on."""
    ignored = {
        *_OPERATIONAL,
        "batch_size",
        "gradient_accumulation_steps",
        *(["lora"] if params.method == "full" else []),
    }
    settings = params.model_dump(mode="json", exclude=ignored)
    examples = int(params.batch_size) * params.gradient_accumulation_steps * processes
    # The base's files count too: it may have been trained again under the same name.
    described = [base.source, base.revision, model_digest(base), settings, examples, *rows]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def noted_split(work: Path) -> dict[str, int]:
    """Return batch size and accumulation of the run whose checkpoints are in a folder; nothing if there are none.

    A run that had to halve its batch resumes with the halved batch.
    """
    try:
        split: dict[str, int] = json.loads((work / "job.json").read_text(encoding="utf-8"))["split"]
    except (OSError, ValueError, KeyError):
        return {}
    return split if newest(work) else {}


def prepare(work: Path, digest: str, split: Mapping[str, int], *, resume: bool) -> None:
    """Empty the folder for a new run, or, to resume one, set its incomplete checkpoints aside.

    Args:
        work: Folder of the run.
        digest: What :func:`digest_of` returns.
        split: Batch size and accumulation, for :func:`noted_split`.
        resume: Whether to keep the checkpoints.

    Raises:
        BackendError: The checkpoints belong to another run.
    """
    note = work / "job.json"
    found = _checkpoints(work)
    if resume and found:
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8"))["job"] != digest:
            raise BackendError(
                "the checkpoints belong to other data, other parameters or another base.",
                where="training.resume",
                fix="Restore what they were made with, or set training.resume=false to start again.",
            )
        for folder in found:
            if _is_complete(folder):
                return
            logger.warning("%s is incomplete and was set aside.", folder.name)
            aside = folder.with_name(f"incomplete-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)  # left by an earlier run that was killed at the same step
            folder.rename(aside)
    if resume:
        logger.info("There is no checkpoint to resume from; training starts from the beginning.")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    note.write_text(json.dumps({"job": digest, "split": dict(split)}), encoding="utf-8")


def newest(work: Path) -> Path | None:
    """Return the newest complete checkpoint, or None."""
    return next((folder for folder in _checkpoints(work) if _is_complete(folder)), None)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _checkpoints(work: Path) -> list[Path]:
    """Return the folders of the checkpoints, newest first."""
    return sorted((work / "checkpoints").glob("checkpoint-*"), key=step_of, reverse=True)


def _is_complete(folder: Path) -> bool:
    # Several processes save a random state each.
    files = (trained_weights(folder), *(folder / name for name in _CHECKPOINT_FILES))
    return all(file.is_file() for file in files) and any(folder.glob("rng_state*.pth"))
