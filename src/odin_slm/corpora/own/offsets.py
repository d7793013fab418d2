"""What the offsets of a corpus count: characters, bytes or UTF-16 units, with byte order mark and Windows line ends.

A document's text has no byte order mark and ends its lines with a line feed alone. Python counts its characters,
JavaScript counts UTF-16 units, and C and Java tools may count bytes; which one a file means cannot be seen from it, but
from whether its mentions then stand on what they name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from odin_slm.corpora.mention_names import is_whole_words, same_name
from odin_slm.corpora.own.given import GivenMention, GivenText

if TYPE_CHECKING:
    import numpy

_MARK = "\ufeff"
_WIDTHS = {"characters": (1, 1, 1, 1), "utf-16": (1, 1, 1, 2), "bytes": (1, 2, 3, 4)}
"""Unit -> what a character of one, two, three and four bytes in UTF-8 counts."""


class Reading(NamedTuple):
    """What offsets count.

    Attributes:
        unit: ``characters``, ``bytes`` or ``utf-16``.
        lines: Whether a Windows line end counts as one character.
        mark: Whether a byte order mark counts.
    """

    unit: str
    lines: bool = False
    mark: bool = False

    def __str__(self) -> str:
        lines = ", a Windows line end as one" if self.lines else ""
        return f"{self.unit}{lines}{', with the byte order mark' if self.mark else ''}"


class Choice(NamedTuple):
    """The reading of a corpus.

    Attributes:
        reading: What its offsets count.
        hint: What else most of them would fit, where they do not all fit this; else empty.
    """

    reading: Reading
    hint: str = ""


def plain(text: str) -> str:
    """Return a text as a document has it."""
    return text.removeprefix(_MARK).replace("\r\n", "\n")


def units(text: str, unit: str) -> int:
    """Return how long a text is."""
    if text.isascii() or unit == "characters":
        return len(text)
    return len(text.encode()) if unit == "bytes" else len(text.encode("utf-16-le")) // 2


class Places:
    """Where the offsets of one text lead to.

    Args:
        text: The text as its file has it.
        reading: What its offsets count.
    """

    def __init__(self, text: str, reading: Reading) -> None:
        self.text = plain(text)
        self._steps = None if _trivial(text, reading) else _steps(text, reading)

    def span(self, begin: int, end: int) -> tuple[int, int] | None:
        """Return a span of characters of the document's text; None where the offsets lead to none."""
        first, last = self._place(begin), self._place(end)
        return (first, last) if first is not None and last is not None and first < last else None

    def _place(self, offset: int) -> int | None:
        if self._steps is None:
            return offset if 0 <= offset <= len(self.text) else None
        offsets, places = self._steps
        at = int(offsets.searchsorted(offset))
        return int(places[at]) if at < len(offsets) and offsets[at] == offset else None


def choose(texts: Sequence[GivenText], requested: str) -> Choice:
    """Choose what the offsets of a corpus count.

    Args:
        texts: All its texts.
        requested: A unit, or ``auto``: characters, unless not all mentions fit these and all fit another reading.
    """
    readings = list(_readings(texts, requested))
    total = sum(len(text.mentions) for text in texts)
    counts: dict[Reading, int] = {}
    for reading in readings:
        counts[reading] = sum(_fitting(text, Places(text.text, reading)) for text in texts)
        if counts[reading] == total:
            return Choice(reading)
    best = max(readings, key=counts.__getitem__)
    if counts[best] == counts[readings[0]]:
        return Choice(readings[0])
    return Choice(readings[0], f"{counts[best]} of {total} mentions fit if offsets count {best}")


def single_spaced(text: str) -> str:
    """Return a text with its runs of space as one: tools write line breaks in mentions as spaces."""
    return " ".join(text.split())


def _readings(texts: Sequence[GivenText], requested: str) -> Iterator[Reading]:
    """Yield the readings that differ on these texts, the most natural first."""
    everything = [text.text for text in texts]
    beyond = max((max(text, default="") for text in everything if not text.isascii()), default="")
    units = ["characters", *(["utf-16"] if beyond > "\uffff" else []), *(["bytes"] if beyond > "\x7f" else [])]
    windows = any("\r\n" in text for text in everything)
    marked = any(text.startswith(_MARK) for text in everything)
    for unit in units if requested == "auto" else [requested]:
        for mark in (False, True) if marked else (False,):
            for lines in (False, True) if windows else (False,):
                yield Reading(unit, lines, mark)


def _trivial(text: str, reading: Reading) -> bool:
    return (text.isascii() or reading.unit == "characters") and "\r\n" not in text and not text.startswith(_MARK)


def _steps(text: str, reading: Reading) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the offset of every character and of the end, and the place of each in the document's text."""
    import numpy

    widths = numpy.array(_WIDTHS[reading.unit])
    body = text.removeprefix(_MARK)
    codes = numpy.frombuffer(body.encode("utf-32-le", "surrogatepass"), "<u4")
    counts = widths[(codes > 0x7F).astype(int) + (codes > 0x7FF) + (codes > 0xFFFF)]
    kept: numpy.ndarray = numpy.ones(len(codes), dtype=int)
    returns = numpy.flatnonzero((codes[:-1] == ord("\r")) & (codes[1:] == ord("\n")))
    kept[returns] = 0
    if reading.lines:
        counts[returns] = 0
    mark = widths[2] if reading.mark and len(body) < len(text) else 0
    return mark + numpy.concatenate([[0], counts.cumsum()]), numpy.concatenate([[0], kept.cumsum()])


def _fitting(text: GivenText, places: Places) -> int:
    return sum(_fits(mention, places) for mention in text.mentions)


def _fits(mention: GivenMention, places: Places) -> bool:
    spans = [places.span(*piece) for piece in mention.pieces or ((mention.begin, mention.end),)]
    sound = [span for span in spans if span]
    if len(sound) < len(spans):
        return mention.begin == mention.end
    if mention.text is None:
        return all(is_whole_words(places.text, *span) for span in sound)
    found = " ".join(places.text[slice(*span)] for span in sound)
    return single_spaced(found) == single_spaced(mention.text) or same_name(found, mention.text)
