"""What an answer about letters is worth: pure functions of the right answer and of what a model wrote.

An answer is looked for in what was written, so that a model that wraps it in a sentence, as a base does that was never
shown the form, gets the credit for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_NUMBER = re.compile(rf"\b(\d+|{'|'.join(_NUMBERS)})\b")
_QUOTED = re.compile(r"[\"'“‘`*]([a-z])[\"'”’`*]")
_ALONE = re.compile(r"[^a-z]*([a-z])[^a-z]*")


def number_in(output: str) -> int | None:
    """Return the first number of an output, in digits or as a word; None where there is none."""
    found = _NUMBER.search(output.casefold())
    if found is None:
        return None
    return int(found[1]) if found[1].isdigit() else _NUMBERS.index(found[1])


def letter_in(output: str) -> str | None:
    """Return the letter that an output consists of, or else the first one in quotation marks; None: there is none."""
    text = output.casefold()
    found = _ALONE.fullmatch(text) or _QUOTED.search(text)
    return found[1] if found else None


def letters_of(output: str) -> list[str]:
    """Return what stands between separators, in order: letters, of a word that is spelled; whole words otherwise."""
    return re.findall(r"[^\W_]+", output.casefold())


def count_is_right(gold: str, output: str) -> bool:
    """Tell whether an output says the right number."""
    return (found := number_in(output)) is not None and found == number_in(gold)


def letter_is_right(gold: str, output: str) -> bool:
    """Tell whether an output names the right letter."""
    return letter_in(output) == gold.casefold()


def is_spelled(gold: str, output: str) -> bool:
    """Tell whether an output lists exactly the right letters, whatever separates them."""
    return letters_of(output) == letters_of(gold)


def character_level_accuracy(gold: str, output: str) -> float:
    """Return the share of places, of the longer of the two, that hold the right letter: 0 to 1."""
    right, written = letters_of(gold), letters_of(output)
    same = sum(a == b for a, b in zip(right, written, strict=False))
    return same / max(len(right), len(written), 1)


def levenshtein_distance(gold: str, output: str) -> float:
    """Return the edit distance between the letters over the length of the longer: 0 (equal) to 1."""
    right, written = letters_of(gold), letters_of(output)
    return edit_distance(right, written) / max(len(right), len(written), 1)


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Return how many insertions, deletions and substitutions part two sequences (Levenshtein, 1966)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
