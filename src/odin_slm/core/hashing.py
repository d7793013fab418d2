"""The one way that values become bytes, so that equal values have equal hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
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
