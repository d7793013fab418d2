"""The form that the regular inflections of an English word share."""

from __future__ import annotations

import re

_PLURALS = (("ies", "i"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("zes", "z"))
_ENDINGS = ("iest", "ier", "ied", "ily", "est", "ing", "ed", "er", "ly")
_SHORTEST = 3
"""Letters that must be left of a word without its ending, so that `ring` and `fly` stay what they are."""


def stem(word: str) -> str:
    """Return a key that `berry` and `berries`, or `run`, `runs`, `runner` and `running`, have in common.

    The rules are those of regular endings, as in steps 1 and 5 of Porter (1980, "An algorithm for suffix stripping"),
    and take more words together than share a lemma, never fewer: for telling two splits apart that is the safe side.
    Irregular forms (`went`, `mice`) are not told.
    """
    stemmed = _without_plural(word.casefold())
    ending = next((e for e in _ENDINGS if stemmed.endswith(e) and len(stemmed) - len(e) >= _SHORTEST), "")
    if ending and re.search("[aeiouy]", stemmed[: -len(ending)]):
        stemmed = stemmed[: -len(ending)] + ("i" if ending.startswith("i") and ending != "ing" else "")
    stemmed = re.sub(r"([^aeiou])\1$", r"\1", stemmed)
    if len(stemmed) > _SHORTEST:
        stemmed = re.sub("y$", "i", stemmed.removesuffix("e"))
    return stemmed


def _without_plural(word: str) -> str:
    for ending, left in _PLURALS:
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word.removesuffix(ending) + left
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > _SHORTEST:
        return word.removesuffix("s")
    return word
