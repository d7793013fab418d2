"""JSON that somebody else wrote: nested only so deep that reading it needs no more stack than there is."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

from pydantic_core import from_json

DEEPEST = 200
"""So many lists and objects may lie in each other, and an empty list in them, as in pydantic's parser; no format that
is read here has 20."""

_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
_BY_BYTE = {ord(bracket): step for bracket, step in _STEPS.items()}
_REST = bytes(set(range(256)) - set(_BY_BYTE) - set(b'"'))
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def loads(text: str | bytes) -> Any:
    """Return the value of a JSON text, as ``json.loads`` does.

    The parser of pydantic takes half of the time of Python's. What it refuses is read again by Python's, which accepts
    lone surrogates and says what is wrong; but that goes down the stack with each list and object, until a
    RecursionError, and whatever the garbage collector finalises down there fails as well.

    Raises:
        json.JSONDecodeError: The text is no JSON, or nested deeper than :data:`DEEPEST`; with the place.
        ValueError: It is not in UTF-8, UTF-16 or UTF-32, or holds a number of too many digits for Python.
    """
    try:
        return from_json(text)
    except (ValueError, TypeError):
        pass
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    require_shallow(text)
    return json.loads(text)


def require_shallow(text: str) -> None:
    """Check how deep a JSON text is nested, for who reads it by another parser.

    Raises:
        json.JSONDecodeError: It is nested deeper than :data:`DEEPEST`; with the place.
    """
    if text.count("[") + text.count("{") > DEEPEST and max(_depths(text), default=0) > DEEPEST:
        brackets = (found for found in _STRING_OR_BRACKET.finditer(text) if found[0] in _STEPS)
        depth = 0
        for bracket in brackets:
            depth += _STEPS[bracket[0]]
            if depth > DEEPEST:
                raise json.JSONDecodeError(f"Nested more than {DEEPEST} deep", text, bracket.start())


def _depths(text: str) -> accumulate[int]:
    """Return the depth after each bracket outside strings, in less time than parsing takes."""
    plain = text.encode("utf-8", "surrogatepass").replace(b"\\\\", b"").replace(b'\\"', b"")
    quoted = plain.translate(None, _REST).replace(b'""', b"")  # a pair of quotes with nothing between changes nothing
    return accumulate(map(_BY_BYTE.__getitem__, b"".join(quoted.split(b'"')[::2])))
