"""The one way that values become bytes, so that equal values have equal hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """Return indented UTF-8 JSON in insertion order with a final line break."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def canonical_jsonl(rows: list[dict[str, Any]]) -> str:
    """Return one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def sha256_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


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
