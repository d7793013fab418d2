"""Outputs on disk as they are written, so that a generation that was killed goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from odin_slm.core import json_text
from odin_slm.core.files import write_text
from odin_slm.core.hashing import sha256_text
from odin_slm.models.base_model import BaseModel, model_digest


class ResumeLog:
    """A JSON Lines file: what is generated, then one line per output, in the order in which they end.

    A file that begins with another job, or with a line that was cut, is not continued from that place on.

    Args:
        file: Where it lies; its folder exists.
        job: What is generated, as :func:`describe` gives it.
    """

    def __init__(self, file: Path, job: str) -> None:
        self.file = file
        self._job = job
        self.rows: dict[int, dict[str, Any]] = {}
        """Outputs of an earlier attempt at the same job, by index."""
        lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
        if lines and lines[0] == json.dumps({"job": job}):
            for line in lines[1:-1]:  # what follows the last line break was cut
                try:
                    row = json_text.loads(line)
                    self.rows[row["index"]] = row
                except (ValueError, TypeError, KeyError):
                    break

    def begin(self) -> None:
        """Write the file anew with what is kept, and open it for more."""
        kept = [json.dumps({"job": self._job}), *(json.dumps(row) for row in self.rows.values())]
        write_text(self.file, (f"{line}\n" for line in kept))  # whole or not at all: it may be hours of work
        self._stream = self.file.open("a", encoding="utf-8", newline="\n")

    def add(self, row: dict[str, Any]) -> None:
        """Append an output; it is on its way to the disk when the call returns."""
        self._stream.write(f"{json.dumps(row)}\n")
        self._stream.flush()

    def end(self) -> None:
        """Close the file; what it holds stays."""
        self._stream.close()


def describe(base: BaseModel, adapter: Path | None, prompts: Sequence[str], settings: Iterable[Any]) -> str:
    """Return a digest of everything that decides the outputs: weights, tokenizer, prompts, settings."""
    return sha256_text(json.dumps([model_digest(base, adapter), list(prompts), list(settings)]))
