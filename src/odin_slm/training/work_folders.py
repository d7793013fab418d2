"""The working folders of a training on several machines: one on storage that they share, or one on each.

Where each machine has its own, each keeps the checkpoints, so that the others can go on when any of them is lost. Every
function here is called by all processes at once.
"""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odin_slm.core.errors import BackendError
from odin_slm.training import checkpoints

_CHUNK = 2**26
"""Bytes that are sent at once."""
_END = ("", 0, b"")


def keep_on_each_machine(work: Path, arguments: Any) -> None:
    """Let the first process of every machine save, where the machines have a folder each.

    Args:
        work: The folder, on this machine.
        arguments: The Trainer's arguments, which are changed.

    Raises:
        BackendError: FSDP or DeepSpeed would leave each machine with parts of a checkpoint.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    state = arguments.distributed_state
    (name,) = broadcast_object_list([f".{uuid.uuid4().hex}"])
    marker = work / name
    if state.is_main_process:
        work.mkdir(parents=True, exist_ok=True)
        marker.touch()
    state.wait_for_everyone()
    shared = all(gather_object([marker.exists()]))
    if state.is_main_process:
        marker.unlink()
    if shared:
        return
    if any(os.environ.get(f"ACCELERATE_USE_{kind}", "false") == "true" for kind in ("FSDP", "DEEPSPEED")):
        raise BackendError(
            "the machines do not share the folder, and FSDP and DeepSpeed would leave parts of a checkpoint on each.",
            where=str(work),
            fix="Put the project's folder data on storage that all machines reach, or train by DDP (MULTI_GPU).",
        )
    arguments.save_on_each_node = True


def same_checkpoint(work: Path, arguments: Any) -> Path | None:
    """Return the newest checkpoint that any machine has; machines that lack it receive it, and the best one with it."""
    from accelerate.utils import gather_object

    own = checkpoints.newest(work)
    steps: list[int] = gather_object([checkpoints.step_of(own) if own else 0])
    newest = max(steps)
    if not newest:
        return None
    folder = work / "checkpoints" / f"checkpoint-{newest}"
    if min(steps) < newest:
        lacking = arguments.should_save and own != folder
        for name, begin, data in _sent(folder, steps.index(newest), arguments.process_index):
            if lacking:
                file = place_below(folder.parent, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("ab" if begin else "wb") as stream:
                    stream.write(data)
        if lacking:
            _relocate(folder)
        arguments.distributed_state.wait_for_everyone()
    return folder


def place_below(folder: Path, name: str) -> Path:
    """Return where a file that another machine sends belongs.

    Raises:
        BackendError: It would lie outside the folder.
    """
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise BackendError(
            f"another machine sends the file {name!r}, which lies outside.",
            where=str(folder),
            fix="Let only machines that you trust join, in a network of their own.",
        )
    return file


def _sent(folder: Path, keeper: int, process: int) -> Iterator[tuple[str, int, bytes]]:
    """Send a checkpoint, and the best one that it names, from a process to all others.

    Yields:
        File, as a path below the folder of the checkpoints, position in it, and the bytes from there on.
    """
    from accelerate.utils import broadcast_object_list

    for name, begin, data in itertools.chain(_parts(folder) if process == keeper else itertools.repeat(_END), [_END]):
        part = broadcast_object_list([(name, begin, data)], from_process=keeper)[0]
        if part == _END:
            return
        yield part


def _parts(folder: Path) -> Iterator[tuple[str, int, bytes]]:
    best = _state(folder).get("best_model_checkpoint")
    for name in sorted({folder.name, Path(best or folder).name}):
        for file in sorted(path for path in (folder.parent / name).rglob("*") if path.is_file()):
            with file.open("rb") as stream:
                for begin in range(0, max(1, file.stat().st_size), _CHUNK):
                    yield file.relative_to(folder.parent).as_posix(), begin, stream.read(_CHUNK)


def _relocate(folder: Path) -> None:
    """Let a received checkpoint name the best one by its path on this machine."""
    state = _state(folder)
    if best := state.get("best_model_checkpoint"):
        written = json.dumps({**state, "best_model_checkpoint": str(folder.parent / Path(best).name)}, indent=2)
        (folder / "trainer_state.json").write_text(written + "\n", encoding="utf-8")


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return state
