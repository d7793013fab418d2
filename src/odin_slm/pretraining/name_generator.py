"""Generator of invented names, codes and doses, and of random spans."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_ONSETS = "b c d f g h l m n p qu r s t v x z br cl cr dr fl gl pr st tr th ph ch sc".split()
_NUCLEI = "a e i o u y ae io ea ou ia eu".split()
_CODAS = " n r s l x m t n d c".split(" ")
ENDINGS = {
    "Drug": "ine ol ide ate azole mab pril one ium in".split(),
    "Disease": "osis itis emia oma pathy ia uria trophy".split(),
    "Symptom": "algia ache ness ing ling pnea".split(),
}


def invent_name(rng: random.Random, kind: str | None = None) -> str:
    """Return an invented word, sometimes with a number, a capital or a second word, as in drug names.

    Args:
        rng: Source of the draws.
        kind: Key of :data:`ENDINGS`; None draws from all endings.
    """
    endings = ENDINGS[kind] if kind else [ending for group in ENDINGS.values() for ending in group]
    syllables = "".join(
        rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(rng.choice((1, 2, 2, 3)))
    )
    word = syllables + rng.choice(endings)
    draw = rng.random()
    if draw < 0.15:
        return word.capitalize()
    if draw < 0.25 and kind in (None, "Drug"):
        return f"{word[:4].upper()}-{rng.randint(1, 999)}"
    if draw < 0.40:
        return f"{word} {rng.choice(_ONSETS)}{rng.choice(_NUCLEI)}{rng.choice(endings)}"
    return word


def odd_name(rng: random.Random) -> str:
    """Return a code, a dose or a word; some of its parts are repeated."""

    def part() -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return "".join(rng.choices("ABCDEFGHIKLMNOPRSTX", k=rng.choice((1, 1, 2, 3))))
        if kind == 1:
            return str(rng.choice((rng.randint(1, 9), rng.randint(10, 2000))))
        return rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS)

    pieces: list[str] = []
    for _ in range(rng.randint(1, 4)):
        pieces += [part()] * rng.choice((1, 1, 2, 2, 3))
    name = rng.choice(("", "", "-", "-", ",", "/", ".", "'-", " ")).join(pieces)
    return name + rng.choice(("", "", rng.choice(ENDINGS["Drug"]), rng.choice(ENDINGS["Disease"])))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return (begin, end) of every word of a text."""
    return [match.span() for match in _WORD.finditer(text)]


def random_span(words: Sequence[tuple[int, int]], rng: random.Random, at_most: int) -> Sequence[tuple[int, int]]:
    """Draw up to ``at_most`` consecutive words; an empty span if there are no words."""
    if not words:
        return []
    first = rng.randrange(len(words))
    return words[first : first + 1 + rng.randrange(at_most)]
