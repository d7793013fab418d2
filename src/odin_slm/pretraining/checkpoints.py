"""Checkpoints of pretraining, from which a killed run resumes, and the weights that the finished base averages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from odin_slm.core.errors import BackendError
from odin_slm.core.files import write_text

_FORMER = {"slips": "corruption", "circles": "loops", "glued": "affixes"}
"""What older checkpoints call some exercises -> their names."""


@dataclass
class Progress:
    """How far a run has come; ``history`` has one entry per log line."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save(work: Path, model: Any, optimizers: list[Any], progress: Progress, settings: dict[str, Any]) -> None:
    """Replace the checkpoint of a run; if the run is killed meanwhile, one of the two is still complete."""
    from safetensors.torch import save_file

    folder = work / "checkpoint"
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_file(_weights(model), new / "model.safetensors")
    tensors = {}
    for number, optimizer in enumerate(optimizers):
        for key, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"{number}.{key}.{name}"] = value.contiguous()
    save_file(tensors, new / "optimizer.safetensors")
    (new / "progress.json").write_text(json.dumps({**asdict(progress), "settings": settings}))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def note_data(work: Path, digest: str) -> None:
    """Note of which data a run is, or check that it goes on with the same; runs of before have noted nothing.

    Raises:
        BackendError: The folder holds a run on other data, whose tokenizer and weights would be taken for theirs.
    """
    note = work / "data.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != {"sha256": digest}:
        raise BackendError(
            "it holds a pretraining on other documents, other texts or with another held-out share.",
            where=str(work),
            fix="Delete the folder to start again, or restore the data.",
        )
    write_text(note, json.dumps({"sha256": digest}))


def locate(work: Path) -> Path:
    """Return the folder of the checkpoint; restores its name if a run was killed while it replaced the checkpoint."""
    folder = work / "checkpoint"
    old = folder.with_name(folder.name + ".old")
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)
    return folder


def restore(folder: Path, model: Any, optimizers: list[Any], settings: dict[str, Any]) -> Progress:
    """Load a checkpoint into a model and its optimizers.

    Raises:
        BackendError: The checkpoint was made with other settings.
    """
    from safetensors.torch import load_file

    progress = json.loads((folder / "progress.json").read_text())
    if not _continues(progress.pop("settings"), json.loads(json.dumps(settings))):
        raise BackendError(
            "the checkpoint was made with another architecture, another schedule or other phases.",
            where=str(folder.parent),
            fix="Delete the folder to start again, or restore the parameters with which the checkpoint was made.",
        )
    weights = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])
    tensors = load_file(folder / "optimizer.safetensors")
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            owner, parameter_key, name = key.split(".")
            if int(owner) == number:
                state.setdefault(int(parameter_key), {})[name] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Progress(**progress)


def _continues(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Tell whether a run with the new settings continues the old one: equal, or extended by phases that restart."""

    def phases(settings: dict[str, Any]) -> list[dict[str, Any]]:
        longer = settings["schedule"]["tokens"] / old["schedule"]["tokens"]
        return [
            {
                **phase,
                "restart": phase.get("restart", 0.0),
                "until": round(phase["until"] * longer, 3),  # as shares of the old length
                "mixture": {_FORMER.get(name, name): share for name, share in phase["mixture"].items() if share},
            }
            for phase in settings["phases"]
        ]

    if old.get("architecture", new["architecture"]) != new["architecture"]:  # older checkpoints do not contain it
        return False
    before, after = phases(old), phases(new)
    added = after[len(before) :]
    free = {"tokens": 0, "average": 1}  # neither affects the steps that are done
    same = {**old["schedule"], **free} == {**new["schedule"], **free} and after[: len(before)] == before
    extended = old["schedule"]["tokens"] != new["schedule"]["tokens"]
    return same and all(phase["restart"] for phase in added) and bool(added) == extended


def save_annealed(work: Path, number: int, model: Any) -> None:
    """Save the weights at the end of a phase, where the learning rates have fallen to zero."""
    from safetensors.torch import save_file

    file = _annealed(work, number)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    save_file(_weights(model), new)
    os.replace(new, file)


def check_annealed(work: Path, numbers: Sequence[int]) -> None:
    """Check, before hours of training, that the weights to be averaged exist as far as the run has come.

    Raises:
        BackendError: Weights are missing, because the run was started before they were kept.
    """
    for number in numbers:
        if not _annealed(work, number).is_file():
            raise BackendError(
                f"the weights at the end of phase {number + 1} are missing.",
                where=str(_annealed(work, number)),
                fix="Lower pretraining.schedule.average, or train from the start.",
            )


def average_annealed(work: Path, numbers: Sequence[int], model: Any) -> None:
    """Set the weights of a model to the mean of those at the ends of some phases."""
    from safetensors.torch import load_file

    ends = [load_file(_annealed(work, number)) for number in numbers]
    for name, parameter in model.named_parameters():
        parameter.data.copy_(sum(end[name] for end in ends) / len(ends))


def _annealed(work: Path, number: int) -> Path:
    return work / "ends" / f"{number}.safetensors"


def _weights(model: Any) -> dict[str, Any]:
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
