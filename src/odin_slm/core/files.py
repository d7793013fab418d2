"""Writing that is whole or not at all: a temporary name beside the target, then a replace.

A symbolic link is followed, as by any program that writes: what it names is replaced, and the link stays.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from odin_slm.core.errors import StorageError

_ABSENT = (errno.ENOENT, errno.ENOTDIR)


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


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder at any depth, by the order of their names; of a folder that is not there, none.

    What is hidden is left out. Links are followed, but not in circles; one that leads nowhere is a file that cannot be
    opened.

    Raises:
        StorageError: A folder may not be looked into; what it holds would be missing without a word.
    """
    return list(_walk(folder, frozenset()))


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:
        return
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        if error.errno in _ABSENT:
            return
        raise StorageError(
            f"the folder cannot be looked into ({error.strerror}).",
            where=str(folder),
            fix="Let this user in, or name a folder without it.",
        ) from None
    for path in found:
        if path.is_dir():
            yield from _walk(path, above | {real})
        elif path.is_file() or (path.is_symlink() and not path.exists()):  # no pipe, which would be waited for
            yield path


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
