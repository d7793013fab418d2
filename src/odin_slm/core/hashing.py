"""The one way that values become bytes, so that equal values have equal hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_INDENTED = json.JSONEncoder(ensure_ascii=False, indent=1, allow_nan=False)
_FLAT = json.JSONEncoder(ensure_ascii=False, separators=(",\n  ", ": "), allow_nan=False)
_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return indented UTF-8 JSON in insertion order with a final line break."""
    return "".join(canonical_pieces(value))


def canonical_pieces(value: Any) -> Iterator[str]:
    """Yield the text of :func:`canonical_json` in pieces, one an item: the whole of a million would take gigabytes."""
    if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
        brackets = "{}"
        items: Iterable[str] = (f"{_LINE.encode(key)}: {_item(inner)}" for key, inner in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        brackets, items = "[]", map(_item, value)
    else:
        empty = isinstance(value, Sequence) and not isinstance(value, str)  # also one of core.rows, which json cannot
        yield f"{_INDENTED.encode([] if empty else value)}\n"
        return
    before = f"{brackets[0]}\n "
    for item in items:
        yield before + item
        before = ",\n "
    yield f"\n{brackets[1]}\n"


def _item(value: Any) -> str:
    """Return an item of the outermost list or object, indented by one."""
    flat = isinstance(value, dict) and not any(isinstance(inner, dict | list | tuple) for inner in value.values())
    if flat and value:
        return f"{{\n  {_FLAT.encode(value)[1:-1]}\n }}"  # without indent=, json is written in C
    return _INDENTED.encode(value).replace("\n", "\n ")


def canonical_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield one JSON object a line."""
    return (f"{_LINE.encode(row)}\n" for row in rows)


def canonical_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one JSON object a line."""
    return "".join(canonical_lines(rows))


def sha256_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def short_digest(text: str) -> bytes:
    """Return 16 bytes that tell a text from millions of others, in less memory than the text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def sha256_of_json(value: Any) -> str:
    """Return the hexadecimal SHA-256 of a value's canonical JSON."""
    digest = hashlib.sha256()
    for piece in canonical_pieces(value):
        digest.update(piece.encode("utf-8"))
    return digest.hexdigest()


def sha256_of_files(files: Iterable[Path], begin: str = "") -> str:
    """Return the hexadecimal SHA-256 of a text and of what each file holds, whatever the files are called."""
    digest = hashlib.sha256(begin.encode())
    for file in files:
        digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()


def sha256_of(file: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """Return relative POSIX name -> hexadecimal SHA-256 of every file of a folder, by name."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}


def checksum_lines(hashes: Mapping[str, str]) -> str:
    """Return the text of ``SHA256SUMS`` (the format of ``sha256sum --check``), sorted by file name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
