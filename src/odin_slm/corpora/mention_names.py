"""Whether two spellings are one name: what annotation tools change when they normalise a mention."""

from __future__ import annotations

import html
import unicodedata
from difflib import SequenceMatcher
from functools import lru_cache

_LATIN = {"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ı": "i", "™": ""}
_LOOK_ALIKE = {"γ": "y", "η": "n", "μ": "u", "ν": "v", "ρ": "p", "χ": "x", "ω": "w"}
_SPELLINGS = ("name", "initial", "look-alike")
"""How a Greek letter is written in Latin ones: β as beta, b, or like the one that it resembles."""
_SIMILAR = 0.75
LONGEST = 200
"""Characters; a mention that is longer is none that is only spelt otherwise."""


def same_name(one: str, other: str) -> bool:
    """Tell whether two texts differ in nothing but case, accents, width, dashes, spaces, signs and Greek letters."""
    return max(len(one), len(other)) <= LONGEST and not _forms(one).isdisjoint(_forms(other))


def similar_name(one: str, other: str) -> bool:
    """Tell whether two texts are nearly one name, as singular and plural are."""
    if max(len(one), len(other)) > LONGEST:
        return False
    return any(SequenceMatcher(None, a, b).ratio() >= _SIMILAR for a in _forms(one) for b in _forms(other))


def verbatim(text: str, name: str) -> str | None:
    """Return the first whole words of a text that are this name in whatever spelling; None where there are none."""
    for spelling in _SPELLINGS if len(name) <= LONGEST else ():
        letters, places = _folded(text, spelling)
        for form in sorted(_forms(name)):
            at = letters.find(form)
            while at >= 0:
                begin, end = places[at], places[at + len(form) - 1] + 1
                if is_whole_words(text, begin, end):
                    return text[begin:end]
                at = letters.find(form, at + 1)
    return None


def is_whole_words(text: str, begin: int, end: int) -> bool:
    """Tell whether a span holds something, cuts no word, and has no space at its ends."""
    span = text[begin:end]
    cut = any(0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum() for at in (begin, end))
    return bool(span) and span == span.strip() and not cut


@lru_cache(maxsize=4096)
def _forms(text: str) -> frozenset[str]:
    unescaped = html.unescape(text)
    return frozenset(form for spelling in _SPELLINGS if (form := _folded(unescaped, spelling)[0]))


@lru_cache(maxsize=8)
def _folded(text: str, spelling: str) -> tuple[str, list[int]]:
    """Return the letters and digits of a text in one spelling, and from which character each of them comes."""
    if text.isascii():
        plain = [(letter, place) for place, letter in enumerate(text.casefold()) if letter.isalnum()]
        return "".join(letter for letter, _ in plain), [place for _, place in plain]
    letters, places = [], []
    for place, character in enumerate(text):
        for letter in unicodedata.normalize("NFKD", _LATIN.get(character, character)).casefold():
            for folded in _latin(letter, spelling) if letter.isalnum() else "":
                letters.append(folded)
                places.append(place)
    return "".join(letters), places


def _latin(letter: str, spelling: str) -> str:
    """Return a letter in Latin ones, as far as it is a Greek one or a Latin one of its own."""
    if not "α" <= letter <= "ω":
        return _LATIN.get(letter, letter)
    name = unicodedata.name(letter).rsplit(" ", 1)[-1].casefold()
    return {"name": name, "initial": name[0], "look-alike": _LOOK_ALIKE.get(letter, name[0])}[spelling]
