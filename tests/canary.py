"""The token that the tests publish with: it may stand in the Authorization header, and nowhere else.

Put together, so that no scanner takes this file for a leak. ``conftest.py`` looks for it after every test, and in all
that the tests leave behind; ``hub/conftest.py`` in what arrives at the Hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TOKEN = "hf_" + "aB3dE5gH7j" * 3


def files_with_token(folder: Path) -> list[str]:
    """Return the files under a folder that hold the token, databases and archives included."""
    return sorted(str(path) for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes())


def requests_with_token(journal: Iterable[Any]) -> Iterator[str]:
    """Yield the requests that hold the token elsewhere than in the Authorization header, or send it to the storage."""
    for request in journal:
        headers = [name for name, value in request.headers.items() if TOKEN in value]
        stored = request.path.startswith(("/xet/", "/cdn/", "/lfs/")) and "verify=1" not in request.target
        allowed = [] if stored else ["authorization"]
        if TOKEN in request.target or TOKEN.encode() in request.body or set(headers) - set(allowed):
            yield f"{request.name}: {headers}"
