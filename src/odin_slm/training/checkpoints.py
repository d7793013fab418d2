"""The checkpoints of a training run: which run they belong to, and from which one a killed run resumes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError, BaseModelError
from odin_slm.models.base_model import BaseModel, check_safetensors, model_digest, trained_weights

logger = logging.getLogger(__name__)

NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
"""What the Trainer calls a checkpoint; whatever else lies beside them is somebody's own."""
_ASIDE = "incomplete-"
_CHECKPOINT_FILES = ("optimizer.pt", "scheduler.pt", "trainer_state.json")
"""Files that a run needs to resume from a checkpoint, after its weights; the Trainer writes them in this order."""
_SHARDED = ("optimizer.bin", "optimizer_0", "latest")
"""What FSDP and DeepSpeed write in place of ``optimizer.pt``: whole, in parts, or named by a file."""
OPERATIONAL = {"resume", "oom", "launcher", "num_processes", "accelerate_config", "machine_rank"}
OPERATIONAL |= {"generation_samples", "report_to"}
"""Parameters that do not affect the result. Batch size and accumulation affect it only by their product."""
_COUNTED_APART = {"from_adapter"}
"""Paths that stand for a file, whose hash is among the rows."""


def digest_of(base: BaseModel, params: TrainingParams, rows: Sequence[Sequence[Any]], processes: int = 1) -> str:
    """Return a digest of everything that the result of a training depends on."""
    ignored = {
        *OPERATIONAL,
        *_COUNTED_APART,
        "batch_size",
        "gradient_accumulation_steps",
        *(["lora"] if params.method == "full" else []),
    }
    settings = params.model_dump(mode="json", exclude=ignored)
    examples = int(params.batch_size) * params.gradient_accumulation_steps * processes
    # The base's files count too: it may have been trained again under the same name.
    described = [base.source, base.revision, model_digest(base), settings, examples, *rows]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def noted_settings(work: Path) -> dict[str, Any]:
    """Return what the run whose checkpoints are in a folder found out: nothing if there are none.

    A run that had to halve its batch resumes with the halved batch, and one that chose its precision by timing resumes
    in that one, on any machine.
    """
    settings: dict[str, Any] = _note(work).get("settings", {})
    return settings if newest(work) else {}


def as_noted(work: Path, params: TrainingParams) -> TrainingParams:
    """Return the parameters with the settings of :func:`noted_settings`; a precision that they name themselves stays.

    Raises:
        BackendError: They ask for steps of another number of examples.
    """
    noted = noted_settings(work)
    if noted and params.batch_size != "auto":
        asked = params.batch_size * params.gradient_accumulation_steps
        step = noted["batch_size"] * noted["gradient_accumulation_steps"]
        examples = step * int(_note(work).get("processes", 1))
        # Each of several processes may have been given its share of a step; how many there are is not known yet.
        shared = params.launcher != "none" and examples % asked == 0
        if asked not in (step, examples) and not shared:
            raise BackendError(
                f"the checkpoints are of steps of {examples} examples, and batch_size times accumulation is {asked}.",
                where="training.resume",
                fix="Restore both, or set training.resume=false to start again.",
            )
    if params.precision != "auto":
        noted = {name: value for name, value in noted.items() if name != "precision"}
    return params.model_copy(update=noted)


def shared_out(work: Path, params: TrainingParams, processes: int) -> TrainingParams:
    """Return the parameters with which another number of processes resumes a run: its steps keep their examples.

    Args:
        work: Folder of the run.
        params: Parameters with the batch size and the accumulation that :func:`noted_settings` returns.
        processes: How many processes there are now.

    Raises:
        BackendError: They cannot share the examples of a step evenly.
    """
    before: int = _note(work).get("processes", processes)
    if before == processes or not params.resume or not newest(work):
        return params
    examples = int(params.batch_size) * params.gradient_accumulation_steps * before
    share, rest = divmod(examples, processes)
    if rest:
        raise BackendError(
            f"a step of this run has {examples} examples, which {processes} processes cannot share evenly.",
            where="training.resume",
            fix=f"Resume with a number of processes that divides {examples}; training.resume=false starts again.",
        )
    batch = next(size for size in range(min(int(params.batch_size), share), 0, -1) if share % size == 0)
    logger.info("%d processes go on, each with %d x %d examples a step.", processes, share // batch, batch)
    return params.model_copy(update={"batch_size": batch, "gradient_accumulation_steps": share // batch})


def prepare(work: Path, digest: str, settings: Mapping[str, Any], processes: int = 1, *, resume: bool) -> None:
    """Empty the folder for a new run, or, to resume one, set its incomplete checkpoints aside.

    What somebody laid beside the checkpoints, as a ``checkpoint-best``, stays.

    Args:
        work: Folder of the run.
        digest: What :func:`digest_of` returns.
        settings: Batch size, accumulation and precision, for :func:`noted_settings`.
        processes: Their number, for :func:`shared_out`.
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
            aside = folder.with_name(f"{_ASIDE}{folder.name}")
            _remove(aside)  # left by an earlier run that was killed at the same step
            folder.rename(aside)
    if resume:
        logger.info("There is no checkpoint to resume from; training starts from the beginning.")
    _empty(work, aside=not resume)
    note.write_text(json.dumps({"job": digest, "settings": dict(settings), "processes": processes}), encoding="utf-8")


def rotate(work: Path, limit: int, kept: Collection[str]) -> None:
    """Remove the oldest checkpoints, in place of the Trainer, which would count and remove what is none of its own.

    Args:
        work: Folder of the run.
        limit: How many checkpoints stay.
        kept: Names of those that stay in any case; they count.
    """
    found = _checkpoints(work)
    spare = [folder for folder in found if folder.name not in kept]
    for folder in spare[max(0, limit - (len(found) - len(spare))) :]:
        _remove(folder)


def newest(work: Path) -> Path | None:
    """Return the newest complete checkpoint, or None."""
    return next((folder for folder in _checkpoints(work) if _is_complete(folder)), None)


def is_finished(checkpoint: Path) -> bool:
    """Tell whether a run ended with a checkpoint: after its last step, or because it was to stop early."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return bool(control.get("should_training_stop")) or state["global_step"] >= (state.get("max_steps") or math.inf)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _note(work: Path) -> dict[str, Any]:
    """Return what a run noted about itself; nothing where there is none."""
    try:
        note: dict[str, Any] = json.loads((work / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note


def _checkpoints(work: Path) -> list[Path]:
    """Return what bears the name of a checkpoint, newest first; it may be incomplete, or no folder."""
    found = (path for path in (work / "checkpoints").glob("checkpoint-*") if NAME.fullmatch(path.name))
    return sorted(found, key=step_of, reverse=True)


def _is_complete(folder: Path) -> bool:
    """Tell whether a run can resume from a checkpoint: a process that is killed may leave half a file."""
    # Several processes save a random state each.
    states = [folder / name for name in _CHECKPOINT_FILES if name.endswith(".pt")] + list(folder.glob("rng_state*.pth"))
    sharded = any((folder / name).exists() for name in _SHARDED)
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        if not sharded:
            check_safetensors(trained_weights(folder))
    except (OSError, ValueError, BaseModelError):
        return False
    if sharded:  # accelerate and DeepSpeed have layouts of their own; the Trainer's state comes after them
        return True
    return len(states) >= len(_CHECKPOINT_FILES) and all(zipfile.is_zipfile(file) for file in states)


def _empty(work: Path, *, aside: bool) -> None:
    """Remove what a run made, with ``aside`` also what was set aside, and nothing that lies beside its checkpoints."""
    work.mkdir(parents=True, exist_ok=True)
    for path in work.iterdir():
        if path.name != "checkpoints":
            _remove(path)
    for path in (work / "checkpoints").glob("*"):
        if NAME.fullmatch(path.name.removeprefix(_ASIDE) if aside else path.name):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, a folder, or a link and not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
