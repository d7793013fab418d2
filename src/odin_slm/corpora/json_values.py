"""Values taken out of decoded JSON; whatever is not as expected is an error that says where it stands."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from json.decoder import JSONObject  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

from odin_slm.core import json_text
from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.faults import CUT_OFF, Faults
from odin_slm.corpora.parsed import numbered_lines, require_unicode


def decoded(
    name: str, text: str, what: str, *, first_line: int = 1, decode: Callable[[str], Any] = json_text.loads
) -> Any:
    """Decode the JSON of a file, or of a line of it.

    Args:
        name: Name of the file.
        text: The JSON.
        what: What it should be, for the message.
        first_line: Number of its first line in the file.
        decode: Decodes it.

    Raises:
        CorpusFormatError: It is no JSON, or nested or written so that it cannot be used.
    """
    try:
        return decode(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise CorpusFormatError(
            f"no JSON ({error.msg}, column {error.colno}); expected {what}.",
            where=f"{name}:{error.lineno + first_line - 1}",
            fix=CUT_OFF if not text[error.pos :].strip() else "Mend the JSON there.",
        ) from None
    except (ValueError, RecursionError) as error:
        raise CorpusFormatError(
            f"no usable JSON ({type(error).__name__}); expected {what}.",
            where=f"{name}:{first_line}",
            fix=f"Give {what}: no list in it is nested so deep, and no number so long.",
        ) from None


def kind_of(value: Any) -> str:
    """Return what a decoded value is called."""
    return "dict" if isinstance(value, dict) else type(value).__name__


class JsonValues:
    """Takes values out of decoded JSON.

    Args:
        where: ``file:line`` of what is being read.
        about: What begins a message: the document that it is about, or nothing.
    """

    def __init__(self, where: str = "", about: str = "") -> None:
        self.where = where
        self.about = about

    def items(self, value: Any, key: str, label: str) -> list[Any]:
        """Return the list under a key."""
        found = self.get(value, key, label)
        if not isinstance(found, list):
            raise self.error(f"found {kind_of(found)} under '{key}' of {label}; expected a list")
        return found

    def perhaps(self, value: dict[str, Any], key: str, label: str) -> list[Any]:
        """Return the list under a key; an empty one where there is nothing."""
        return self.items(value, key, label) if value.get(key) else []

    def mapping(self, value: Any, key: str, label: str) -> dict[str, Any]:
        """Return the object under a key."""
        found = self.get(value, key, label)
        if not isinstance(found, dict):
            raise self.error(f"found {kind_of(found)} under '{key}' of {label}; expected an object")
        return found

    def string(self, value: Any, key: str, label: str) -> str:
        """Return the string under a key, which can be written as UTF-8."""
        found = self.get(value, key, label)
        if not isinstance(found, str):
            raise self.error(f"found {kind_of(found)} under '{key}' of {label}; expected a string")
        require_unicode(found, self.where)
        return found

    def number(self, value: Any, key: str, label: str) -> int:
        """Return the number of characters under a key."""
        found = self.get(value, key, label)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 10**9:
            raise self.error(f"found {str(found)[:20]!r} under '{key}' of {label}; expected a number of characters")
        return found

    def get(self, value: Any, key: str, label: str) -> Any:
        """Return whatever is under a key."""
        if not isinstance(value, dict):
            raise self.error(f"{label} is {kind_of(value)}; expected an object")
        if key not in value:
            raise self.error(f"{label} has no '{key}'")
        return value[key]

    def error(self, what: str) -> CorpusFormatError:
        """Return the error that says this."""
        return CorpusFormatError(f"{self.about}{what}.", where=self.where, fix="Mend this value, or take it out.")


class Placed(dict[str, Any]):
    """A JSON object that knows the line where it begins."""

    line = 1


class _PlacingDecoder(json.JSONDecoder):
    """Decodes JSON whose objects know their lines; the standard library's own decoder in Python, with that added."""

    def __init__(self, first_line: int) -> None:
        super().__init__()
        self._first = first_line
        self._breaks: list[int] = []
        self.parse_object: Any = self._object
        self.scan_once: Any = py_make_scanner(self)

    def decode(self, text: str, *args: Any) -> Any:
        json_text.require_shallow(text)
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        return super().decode(text)

    def _object(self, text_and_end: tuple[str, int], *args: Any) -> tuple[Placed, int]:
        value, end = JSONObject(text_and_end, *args)
        placed = Placed(value)
        placed.line = self._first + bisect_left(self._breaks, text_and_end[1])
        return placed, end


def placed(name: str, text: str, what: str, *, first_line: int = 1) -> Any:
    """Decode JSON as :func:`decoded` does; its objects are :class:`Placed`."""
    return decoded(name, text, what, first_line=first_line, decode=_PlacingDecoder(first_line).decode)


def line_of(value: Any, otherwise: int) -> int:
    """Return the line of a decoded value; the other number where it is no object."""
    return value.line if isinstance(value, Placed) else otherwise


def rows(name: str, text: str, what: str, faults: Faults) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of the rows of a file: its lines, or the items of the list that it is, from 1.

    Args:
        name: Name of the file; one that ends with ``.json`` is a list, unless it holds one value a line.
        text: Its text.
        what: What a row should be, for messages.
        faults: Takes the lines that are no JSON.
    """
    for _ in numbered_lines(name, text, faults):
        pass  # refuses lone surrogates with their line before json can pass them on
    if name.endswith(".json"):
        try:
            value = placed(name, text, f"a list of {what}")
        except CorpusFormatError as error:
            if "Extra data" not in error.what:
                raise
        else:
            yield from enumerate(value if isinstance(value, list) else [value], start=1)
            return
    for number, line in numbered_lines(name, text):
        if line.strip():
            with faults.collected("line"):
                yield number, placed(name, line, what, first_line=number)
