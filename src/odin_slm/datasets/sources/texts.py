"""Texts in UTF-8, and what to say of those that are in another encoding."""

from __future__ import annotations

from odin_slm.core.errors import CorpusFormatError

_WIDE = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


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
