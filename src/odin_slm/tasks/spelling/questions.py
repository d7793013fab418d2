"""Questions about the letters of a word, and what is asked of a word of each split.

A word stands in a question as its token stands in the vocabulary: after a space, or at the head of the line. What the
test asks beyond spelling has wordings of its own, which no training record uses.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

SpellingKind = Literal["spell", "separated", "backwards", "ends", "joined"]
LetterKind = Literal["count", "position"]

SPELLING: tuple[SpellingKind, ...] = get_args(SpellingKind)
"""What training asks: letters in order, with hyphens, backwards, the two ends, and the word from its letters."""
LETTERS: tuple[LetterKind, ...] = get_args(LetterKind)
APART = ("count_apart", "position_apart")
"""The same two with the letters given apart, so that no token hides them."""
TESTED = ("spell", *LETTERS, *APART)
"""What the test asks of each of its words."""
MADE = "-of-tokens"
"""End of the id of a document whose word is made of tokens: it is asked to be spelled, and nothing else."""

_ASKED: dict[str, tuple[str, ...]] = {
    "spell": ("Spell this word letter by letter:{word}", "{word}: spell this word letter by letter"),
    "separated": (
        "Write this word with a hyphen between its letters:{word}",
        "{word}: write this word with a hyphen between its letters",
    ),
    "backwards": (
        "Spell this word backwards, from its last letter:{word}",
        "{word}: spell this word backwards, from its last letter",
    ),
    "ends": (
        "Give the first and the last letter of this word:{word}",
        "{word}: give the first and the last letter of this word",
    ),
    "joined": ("Which word do these letters make? {letters}", "{letters} are letters: which word do they make?"),
    "count": ("How many times does the letter {letter} occur in the word{word}?",),
    "position": ("What is the {ordinal} letter of the word{word}?",),
    "count_apart": ("How many times does the letter {letter} occur in {letters}?",),
    "position_apart": ("What is the {ordinal} letter of {letters}?",),
    # only for training on counts and positions outright, where what is tested must not be worded alike
    "trained_count": ("Count the letter {letter} in this word:{word}", "{word}: count the letter {letter} in it"),
    "trained_position": (
        "Write letter number {number} of this word:{word}",
        "{word}: write letter number {number} of this word",
    ),
}
"""Kind of question -> its wordings: the first for a word after a space, the last for one at the head of the line."""

_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_FIELDS = {
    "{word}": "(?P<word> ?[A-Za-z]+)",
    "{letters}": "(?P<letters>[A-Za-z](?: [A-Za-z])*)",
    "{letter}": "[A-Za-z]",
    "{ordinal}": "[a-z]+",
    "{number}": "[0-9]+",
}
LONGEST = len(_ORDINALS)
"""Letters of the longest word whose positions have a name here."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its right answer.

    Attributes:
        kind: A key of the wordings.
        text: What the model reads.
        answer: What it must write.
    """

    kind: str
    text: str
    answer: str


def question(kind: str, word: str) -> Question:
    """Return the question of a kind about a word; equal words get equal questions.

    Args:
        kind: One of :data:`SPELLING`, :data:`LETTERS` and :data:`APART`, or a trained kind.
        word: Two or more small letters from a to z, after a space where the word's token begins with one.
    """
    letters = list(word.strip())
    drawn = random.Random(f"{kind.removesuffix('_apart')}-{word.strip()}")
    letter, times = _letter_to_count(letters, drawn)
    # the ends are asked for in training
    place = drawn.randrange(1, max(2, min(len(letters), LONGEST) - 1))
    answers = {
        "spell": " ".join(letters),
        "separated": "-".join(letters),
        "backwards": " ".join(reversed(letters)),
        "ends": f"{letters[0]} {letters[-1]}",
        "joined": word.strip(),
        "count": str(times),
        "position": letters[place],
    }
    wordings = _ASKED[kind]
    text = wordings[0 if word.startswith(" ") else -1].format(
        word=word, letters=" ".join(letters), letter=letter, ordinal=_ORDINALS[place], number=place + 1
    )
    return Question(kind, text, answers[kind.removeprefix("trained_").removesuffix("_apart")])


def training_questions(word: str, kinds: Sequence[str], most: int | None) -> Iterator[Question]:
    """Yield what training asks of a word: of the kinds in turn, at most so many, drawn by the word."""
    chosen = list(kinds)
    if most is not None and most < len(chosen):
        chosen = sorted(random.Random(f"kinds-{word}").sample(chosen, most), key=kinds.index)
    yield from (question(f"trained_{kind}" if kind in LETTERS else kind, word) for kind in chosen)


def kind_and_word(text: str) -> tuple[str, str] | None:
    """Return the kind of a question and the word that it is about; None for any other text.

    The word has a space before it where it stands behind one, or where its letters are given apart.
    """
    for kind, pattern in _patterns():
        if match := pattern.fullmatch(text):
            found = match.groupdict()
            return kind, found.get("word") or f" {found['letters'].replace(' ', '')}"
    return None


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    found = []
    for kind, wordings in _ASKED.items():
        for wording in wordings:
            pattern = re.escape(wording).replace(r"\{", "{").replace(r"\}", "}")
            for field, expression in _FIELDS.items():
                pattern = pattern.replace(field, expression)
            found.append((kind, re.compile(pattern)))
    return tuple(found)


def _letter_to_count(letters: list[str], drawn: random.Random) -> tuple[str, int]:
    """Draw a letter such that every number that occurs in the word, and 0, is as likely: no one answer then pays."""
    counts = Counter(letters)
    times = drawn.choice(sorted({0, *counts.values()}))
    chosen = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if counts[letter] == times]
    return drawn.choice(chosen), times
