"""Writing that is whole or not at all: a temporary name beside the target, then a replace.

A symbolic link is followed, as by any program that writes: what it names is replaced, and the link stays.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a UTF-8 file, given whole or in pieces; on any failure the old content stays, and nothing else is left."""
    path.resolve().parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as new, new.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines([text] if isinstance(text, str) else text)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Write a fresh file that takes the target's place when the block ends well, with the mode that the target had.

    Yields:
        The name of the file to write, in the target's folder; it is removed when the block raises.
    """
    target = target.resolve()
    new = _temporary(target)
    try:
        yield new
        if target.exists():
            shutil.copymode(target, new)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill a fresh folder that takes the target's place when the block ends well.

    Yields:
        An empty temporary folder beside ``target``; it is removed when the block raises.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = _temporary(target), _temporary(target)
    new.mkdir()
    try:
        yield new
        if target.exists():
            shutil.copymode(target, new)
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def replace_folder(target: Path, source: Path) -> None:
    """Put a copy of ``source`` in the place of ``target``."""
    with new_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
