"""Writing that is whole or not at all: a temporary name beside the target, then a replace."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from odin_slm.core.errors import CorpusFormatError

_WIDE = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a UTF-8 file, given whole or in pieces; on any failure the old content stays, and nothing else is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _temporary(path)
    try:
        with new.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines([text] if isinstance(text, str) else text)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill a fresh folder that takes the target's place when the block ends well.

    Yields:
        An empty temporary folder beside ``target``; it is removed when the block raises.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = _temporary(target), _temporary(target)
    new.mkdir()
    try:
        yield new
        if target.exists():
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


def wide_encoding(head: bytes) -> str | None:
    """Return ``utf-16`` or ``utf-32`` where the first four bytes of a text say so, else None."""
    return next((encoding for mark, encoding in _WIDE.items() if head.startswith(mark)), None)


def decode(path: str, name: str, content: bytes) -> str:
    """Return a UTF-8 text.

    Args:
        path: The file.
        name: What of it the content is: its own name, or a member of an archive.
        content: Its bytes.

    Raises:
        CorpusFormatError: They are no UTF-8; with the first line that is none, and how many are not.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        first = content.count(b"\n", 0, error.start) + 1
        more = sum(_is_other(line) for line in content.split(b"\n")[first:])
        also = f" {more} more lines are not either." if more else ""
        place = f"{path}:{first}" if path.endswith(name) else f"{path}, {name}:{first}"
        encoding = wide_encoding(content[:4]) or "latin1"
        raise CorpusFormatError(
            f"found byte 0x{content[error.start]:02x}, which is not UTF-8; expected UTF-8 text.{also}",
            where=place,
            fix=f"Convert it: iconv -f {encoding} -t utf-8, if {encoding} is what it is.",
        ) from None


def _is_other(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
