"""What was asked of the Hub before, in files: one JSON document per question, each whole, hashed and dated."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from odin_slm.core import json_text
from odin_slm.core.files import new_file

_VERSION = 1
DAY = 24 * 3600.0


@dataclass(frozen=True)
class Key:
    """A question: what one account sees of one revision of one repository on one Hub.

    Attributes:
        endpoint: Address of the Hub.
        kind: Model or dataset.
        repo_id: ``owner/name``.
        revision: Branch, tag or commit.
        user: Digest of the token, or ``stranger``.
    """

    endpoint: str
    kind: str
    repo_id: str
    revision: str
    user: str


@dataclass(frozen=True)
class Found:
    """An answer of the cache.

    Attributes:
        value: What was stored.
        fetched_at: Seconds since the epoch.
        fresh: Whether it is younger than the cache's lifetime. An answer from the future is not: the clock was wrong
            then, or is now.
    """

    value: dict[str, Any]
    fetched_at: float
    fresh: bool


class MetadataCache:
    """A folder of answers that outlives the process.

    Args:
        folder: Made when something is stored; readable for its owner alone, as answers may be private.
        lifetime: Seconds for which an answer is fresh.
        clock: Returns seconds since the epoch.
    """

    def __init__(self, folder: Path, *, lifetime: float = DAY, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._lifetime = lifetime
        self._clock = clock

    def get(self, key: Key) -> Found | None:
        """Return the stored answer, fresh or not; None where there is none. A damaged file is set aside as ``.bad``."""
        file = self._file(key)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError):
            self._set_aside(file)
            return None
        try:
            entry = json_text.loads(text)
            value, fetched_at = entry["value"], entry["fetched_at"]
            if entry["version"] != _VERSION or entry["key"] != asdict(key) or entry["sha256"] != _digest(value):
                raise ValueError
            if not isinstance(value, dict) or isinstance(fetched_at, bool) or not math.isfinite(fetched_at):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            self._set_aside(file)
            return None
        return Found(value, float(fetched_at), 0 <= self._clock() - fetched_at < self._lifetime)

    def put(self, key: Key, value: Mapping[str, Any]) -> None:
        """Store an answer in the place of an older one; readers see the one or the other, never a part."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        entry = {
            "version": _VERSION,
            "key": asdict(key),
            "fetched_at": self._clock(),
            "sha256": _digest(value),
            "value": dict(value),
        }
        file = self._file(key)
        with new_file(file) as new:
            new.touch(0o600, exist_ok=False)
            new.write_text(json.dumps(entry), encoding="utf-8")

    def _file(self, key: Key) -> Path:
        name = hashlib.sha256(json.dumps(list(asdict(key).values())).encode()).hexdigest()[:32]
        return self.folder / f"{name}.json"

    def _set_aside(self, file: Path) -> None:
        if file.exists():
            os.replace(file, file.with_suffix(".bad"))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
