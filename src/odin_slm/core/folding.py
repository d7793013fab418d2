"""Names apart from how they are written: case, Unicode form and width, white space, dashes, and what nobody sees.

``Sjögren`` is one name in NFC and in NFD, ``TNF-α`` with any dash, ``fibrosis`` with a ligature or none. Compared is
what Unicode's compatibility caseless matching compares (https://www.unicode.org/versions/latest/core-spec/chapter-3/,
D146), without ignorable characters, with one kind of dash and of quotes, and single-spaced. Accents count.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

_IGNORABLE = frozenset(
    chr(code)
    for codes in (
        (0xAD, 0x34F, 0x61C, 0xFEFF),  # soft hyphen, joiner of graphemes, Arabic mark, byte-order mark
        range(0x180B, 0x1810),
        (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)),  # zero widths, directions
        (*range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000)),  # variation selectors, tags
    )
    for code in codes
)
_UNSEEN = re.compile(f"[{''.join(sorted(_IGNORABLE))}]")
_ALIKE = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u058a\u2e3a\u2e3b", "-"),
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201f\u2033", '"'),
    }
)
_SPACED = re.compile(r"\s\s|[^\S ]")
_ASCII_CHUNK = re.compile(r"\s+|\w+|[^\w\s]")


def fold(text: str) -> str:
    """Return a name as names are compared, in NFC; what is folded is left as it is."""
    text = text.casefold() if text.isascii() else unicodedata.normalize("NFC", _letters(text, case=True))
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class Folded:
    """A text as names are looked for in it, and where its characters come from.

    Attributes:
        text: The text, decomposed; white space is a single space.
        begins: For every place of it, its end included, the offset in the original of the character that begins there;
            -1 inside of what is one character in the original.
        ends: The same of the character that ends there: the offset behind it.
    """

    text: str
    begins: array[int]
    ends: array[int]

    def find(self, pattern: str) -> list[tuple[int, int, bool]]:
        """Return (begin, end) in the original of all places of a pattern that cut no character, and no word, or not."""
        return [
            (self.begins[begin], self.ends[end], not self._within_word(begin) and not self._within_word(end))
            for begin, end in (match.span() for match in re.finditer(pattern, self.text))
            if begin < end and self.begins[begin] >= 0 and self.ends[end] >= 0
        ]

    def _within_word(self, place: int) -> bool:
        return 0 < place < len(self.text) and _of_word(self.text[place - 1]) and _of_word(self.text[place])


@lru_cache(maxsize=16)
def folded(text: str, *, case: bool) -> Folded:
    """Fold a text that names are looked for in.

    Args:
        text: The text.
        case: Whether case is folded, too.
    """
    if text.isascii() and not _SPACED.search(text):
        places = range(len(text))
        plain = text.casefold() if case else text
        return Folded(plain, array("q", (*places, -1)), array("q", (-1, *(place + 1 for place in places))))
    parts: list[str] = []
    begins, ends = array("q"), array("q", [-1])
    place = 0
    while place < len(text):
        begin = place
        place, end = _character(text, begin)
        part = " " if text[begin].isspace() else _letters(text[begin:end], case=case)
        if part:
            parts.append(part)
            begins.extend([begin, *[-1] * (len(part) - 1)])
            ends.extend([*[-1] * (len(part) - 1), end])
    return Folded("".join(parts), array("q", (*begins, -1)), ends)


def folded_name(name: str, *, case: bool) -> str:
    """Return a name as it stands in :attr:`Folded.text`."""
    text = name if name.isascii() else _letters(name, case=case)
    return " ".join((text.casefold() if case else text).split())


def chunks(text: str) -> list[str]:
    """Cut a text, whole, into runs of white space, words, and other characters.

    What no name may begin or end within stays in one: a character and the marks on it, and a word with what nobody sees
    in it.
    """
    return (_ASCII_CHUNK if text.isascii() else _any_chunk()).findall(text)


@cache
def _any_chunk() -> re.Pattern[str]:
    unseen = _UNSEEN.pattern
    marks = "".join(filter(unicodedata.combining, map(chr, range(sys.maxunicode + 1))))
    return re.compile(rf"\s+|[\w{marks}](?:{unseen}*[\w{marks}])*|[^\w\s](?:{unseen}*[{marks}])*")


def _character(text: str, begin: int) -> tuple[int, int]:
    """Return where the next character begins, and where this one, with the marks on it, or a run of spaces, ends."""
    belongs: Callable[[str], object] = str.isspace if text[begin].isspace() else unicodedata.combining
    place = end = begin + 1
    while place < len(text) and (text[place] in _IGNORABLE or belongs(text[place])):
        place += 1
        end = place if belongs(text[place - 1]) else end
    return place, end


def _letters(text: str, *, case: bool) -> str:
    """Return a text decomposed, without what nobody sees and with dashes and quotes alike."""
    if text.isascii():
        return text.casefold() if case else text
    plain = unicodedata.normalize("NFKD", _UNSEEN.sub("", text).translate(_ALIKE)).translate(_ALIKE)
    return unicodedata.normalize("NFKD", plain.casefold()) if case else plain


def _of_word(character: str) -> bool:
    return character.isalnum() or unicodedata.combining(character) > 0
