"""Abbreviations that a text defines itself, as in "acute renal failure (ARF)", and what they mean for an extraction.

Both forms are names of one thing. Where an output lists one of them, the other is an entity of the same type; where
relations name either, they are relations of one thing, and bear the name that the text uses first, as the records that
a model learns from do.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache

from odin_slm.core.folding import fold
from odin_slm.core.sentences import sentence_spans
from odin_slm.tasks.extraction.format import Entity, Listed, RelationTriple, locate

KEY = "abbreviations"
"""Where a calibrator says that outputs are completed with the other forms of what they list."""

_BRACKETS = re.compile(r"\s\(([^()\n]+)\)")


@lru_cache(maxsize=64)
def definitions(text: str) -> tuple[tuple[str, str], ...]:
    """Return (short form, long form) of every abbreviation that a text defines, each short form once, in text order.

    The algorithm of Schwartz and Hearst: A simple algorithm for identifying abbreviation definitions in biomedical
    text. Pacific Symposium on Biocomputing 8 (2003), 451-462. A short form has 2 to 10 characters in at most two words,
    begins with a letter or digit and holds a letter. It stands in brackets behind its long form, or before brackets
    that hold the long form. The long form lies in the same sentence, within ``min(n + 5, 2 n)`` words for n characters
    of the short form. The characters of the short form are found in it from right to left, the first one at the begin
    of a word.
    """
    found: dict[str, str] = {}
    begins = [0, *(begin for begin, _ in sentence_spans(text))]
    for match in _BRACKETS.finditer(text):
        inside = re.split(r"[,;]\s", match[1])[0].strip()
        before = text[begins[bisect_right(begins, match.start()) - 1] : match.start()]
        short, candidate = (inside, before) if _is_short(inside) else (before.rpartition(" ")[2], inside)
        long = _long_form(short, candidate) if _is_short(short) else ""
        if long:
            found.setdefault(short, long)
    return tuple(found.items())


def _is_short(name: str) -> bool:
    return 2 <= len(name) <= 10 and len(name.split()) <= 2 and name[0].isalnum() and any(map(str.isalpha, name))


def _long_form(short: str, candidate: str) -> str:
    """Return the shortest end of a candidate that a short form can stand for; empty where there is none."""
    text = " ".join(candidate.split(" ")[-min(len(short) + 5, 2 * len(short)) :])
    letters = list(filter(str.isalnum, short.lower()))
    place = len(text)
    while letters:
        place -= 1
        if place < 0:
            return ""
        within = place > 0 and text[place - 1].isalnum()
        if text[place].lower() == letters[-1] and not (within and len(letters) == 1):
            letters.pop()
    long = text[text.rfind(" ", 0, place) + 1 :]
    return long if len(long) > len(short) and short not in long.split() else ""


def completed(text: str, listed: Listed) -> Listed:
    """Return what an output lists, with the other form of every name that the text abbreviates.

    The added entity stands beside the one that it comes from, and is as likely. Relations that say the same of either
    form become one, as likely as the best of them; one between the two forms is left out.

    Args:
        text: The text that defines the names; the whole one, where the output is of a window.
        listed: Entities and relations.
    """
    entities = list(listed.entities)
    first: dict[str, str] = {}
    for forms in definitions(text):
        one, other = sorted(forms, key=lambda form: min(locate(text, form), default=(len(text), 0)))
        names = [fold(entity.text) for entity, _ in entities]
        known = [fold(name) in names for name in (one, other)]
        if any(known):
            first[fold(other)] = one
        if any(known) and not all(known):
            index = names.index(fold(one if known[0] else other))
            entity, chance = entities[index]
            entities.insert(index + known[0], (Entity(entity.type, other if known[0] else one), chance))
    relations: dict[tuple[str, str, str], tuple[RelationTriple, float | None]] = {}
    for said, chance in listed.relations:
        head, tail = (first.get(fold(name), name) for name in (said.head, said.tail))
        key = (fold(head), said.type, fold(tail))
        best = max((c for c in (chance, relations.get(key, (said, None))[1]) if c is not None), default=None)
        if key[0] != key[2] or fold(said.head) == fold(said.tail):
            relations[key] = (RelationTriple(head, said.type, tail), best)
    return Listed(tuple(entities), tuple(relations.values()))
