"""Words: those of a base's vocabulary, to learn spelling from, and those of an English word list, to be asked about.

The list is Debian's ``american-english`` (SCOWL); ``data/01_raw/words`` tells where it comes from. The vocabulary is
that of the experiment's base (:class:`odin_slm.datasets.corpus_files.VocabularyDataset`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heapreplace
from typing import Annotated

from pydantic import Field

from odin_slm.core.document import Document
from odin_slm.core.errors import CorpusFormatError, WrongParameterError
from odin_slm.corpora.parsed import Corpus, ParsedCorpus, corpus_report, numbered_lines, require_files
from odin_slm.tasks.spelling.questions import MADE
from odin_slm.tasks.spelling.stem import stem

LIST, VOCABULARY = "american-english", "vocabulary.txt"

_TOKEN = re.compile(" ?[a-z]{2,}")
_COVERED = 2 / 3
"""Share of a word from which another that begins or ends it makes the two alike (`govern`, `government`)."""
_LEAST = 4
_LONGEST_JOINED = 24
"""Letters of a joined word. Twice as many as a listed word has: the question around it costs the same for any length,
and a longer word teaches more tokens."""
_ROOM = 5
"""Letters that must be left for one token more; with fewer, the same few short ones would stand in most words."""
_MORE = 0.75
"""Chance of one token more, where there is room."""
_TRIES = 20
"""Words that are tried for each joined one, before the vocabulary is too small for so many."""


def parse(
    files: Mapping[str, str],
    train: Annotated[int, Field(ge=1)] | None = None,
    validation: Annotated[int, Field(ge=0)] = 100,
    test: Annotated[int, Field(ge=0)] = 400,
    shortest: Annotated[int, Field(ge=3, le=12)] = 5,
    longest: Annotated[int, Field(le=12)] = 12,
    joined: Annotated[int, Field(ge=0)] = 0,
    seed: int = 42,
) -> ParsedCorpus:
    """Make a document of each word; its text begins with a space where its token does.

    Args:
        files: ``vocabulary.txt``: a token a line, as it decodes, in the order of ids; ``american-english``: a word a
            line.
        train: So many tokens of two or more small letters, the first of the vocabulary, which in a BPE are the most
            frequent; None: all of them.
        validation: Words of the list for validation.
        test: Words of the list for the test.
        shortest: Least letters of a word of the list.
        longest: Most letters of one.
        joined: So many training words more, each made of two training tokens (``straw`` and ``ation``) or more, of
            ``shortest`` to 24 letters, and unlike all words of validation and test.
        seed: Seed of what is drawn.

    Raises:
        MissingInputError: A file is missing.
        WrongParameterError: ``shortest`` is above ``longest``.
        CorpusFormatError: The list has too few words that the vocabulary does not know, or the tokens make too few.
    """
    require_files(files, (VOCABULARY, LIST), "words")
    tokens = [line for _, line in numbered_lines(VOCABULARY, files[VOCABULARY])]
    learned = list(dict.fromkeys(token for token in tokens if _TOKEN.fullmatch(token)))
    known = {token.strip().casefold() for token in tokens}
    fitting = _listed(files[LIST], shortest, longest)
    unseen = _unlike(fitting, known)
    random.Random(f"{seed}-list").shuffle(unseen)
    distinct = list({stem(word): word for word in reversed(unseen)}.values())[::-1]
    if len(distinct) < validation + test:
        raise CorpusFormatError(
            f"found {len(distinct)} words that are unlike the vocabulary's; expected {validation + test}.",
            where=LIST,
            fix="Ask for fewer (ingestion.options.words), or name a longer list: --params words=DIR, for DIR/words/.",
        )
    held_out = distinct[: validation + test]
    made, left_out = _joined(learned[:train], joined, known, held_out, shortest, seed) if joined else ([], {})
    documents = [
        *(_document(token, "train") for token in learned[:train]),
        *(_document(word, "train", MADE) for word in made),
        *(_document(f" {word}", "validation") for word in held_out[:validation]),
        *(_document(f" {word}", "test") for word in held_out[validation:]),
    ]
    dropped = {"in the vocabulary, or alike": len(fitting) - len(unseen), "same stem": len(unseen) - len(distinct)}
    dropped |= left_out
    return ParsedCorpus(documents, corpus_report("words", documents, dropped=dropped, duplicates={}, inputs=files))


def _listed(text: str, shortest: int, longest: int) -> list[str]:
    """Return the words of the list that have so many letters, all small, in order."""
    if shortest > longest:
        raise WrongParameterError(
            f"shortest is {shortest} and longest {longest}: no word has so many letters.",
            where="ingestion.options.words",
            fix="Lower shortest, or raise longest.",
        )
    words = sorted({line for _, line in numbered_lines(LIST, text)})
    return [word for word in words if re.fullmatch(f"[a-z]{{{shortest},{longest}}}", word)]


def _document(text: str, split: str, suffix: str = "") -> Document:
    word = text.strip()
    name = f"words-{word}" + ("" if text.startswith(" ") else "-inside") + suffix
    # the stem stands where abstracts have their PubMed id: documents that share it lie in one split
    return Document(name, text, "words", stem(word), split)


def _unlike(words: Iterable[str], known: set[str]) -> list[str]:
    """Return the words that are no known one, share the stem of none, and neither begin nor end with most of one."""
    stems = set(map(stem, known))
    ends = {end for word in known for end in _ends(word)}
    return [
        word
        for word in words
        if word not in known
        and stem(word) not in stems
        and word not in ends
        and not any(end in known for end in _ends(word))
    ]


def _ends(word: str) -> set[str]:
    """Return beginnings and ends that make up more than two thirds of a word."""
    least = max(_LEAST, int(len(word) * _COVERED) + 1)
    return {part for size in range(least, len(word)) for part in (word[:size], word[-size:])}


class _Walk:
    """Tokens in random order, round after round; of those that fit, one comes that has been used least."""

    def __init__(self, tokens: Iterable[str], drawn: random.Random) -> None:
        self._drawn = drawn
        self._heaps: dict[int, list[tuple[int, float, str]]] = {}
        for token in tokens:
            self._heaps.setdefault(len(token.strip()), []).append((0, drawn.random(), token))
        for heap in self._heaps.values():
            heapify(heap)

    def next(self, room: int) -> str:
        """Return a token of so many letters or fewer; there is one."""
        heap = min((heap for letters, heap in self._heaps.items() if letters <= room), key=lambda heap: heap[0])
        uses, _, token = heap[0]
        heapreplace(heap, (uses + 1, self._drawn.random(), token))
        return token


def _joined(
    tokens: Sequence[str], count: int, known: set[str], held_out: Sequence[str], shortest: int, seed: int
) -> tuple[list[str], dict[str, int]]:
    """Make words of two tokens or more, all but the first without a space; and tell how many were not taken, and why.

    Tokens take turns, at the head of a word and behind it, so that each is used about equally often at either place.
    """
    drawn = random.Random(f"{seed}-joined")
    inside = [token for token in tokens if not token.startswith(" ")]
    least = min(map(len, inside), default=_LONGEST_JOINED)
    firsts = [token for token in tokens if len(token.strip()) + least <= _LONGEST_JOINED]
    heads, others = _Walk(firsts, drawn), _Walk(inside, drawn)
    stems, pieces = set(map(stem, held_out)), {piece for word in held_out for piece in _pieces(word)}
    lengths = set(map(len, pieces))
    made: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for _ in range(count * _TRIES if firsts and inside else 0):
        if len(made) == count:
            break
        text = heads.next(_LONGEST_JOINED - least)
        text += others.next(_LONGEST_JOINED - len(text.strip()))
        while (room := _LONGEST_JOINED - len(text.strip())) >= max(least, _ROOM) and drawn.random() < _MORE:
            text += others.next(room)
        word = text.strip()
        if len(word) < shortest or word in known or word in made:
            dropped["joined: too short, or there already"] += 1
        elif stem(word) in stems or any(part in pieces for size in lengths for part in _runs(word, size)):
            dropped["joined: like a word of validation or test"] += 1
        else:
            made[word] = text
    if len(made) < count:
        raise CorpusFormatError(
            f"its tokens make {len(made)} words that are unlike those of validation and test; expected {count}.",
            where=VOCABULARY,
            fix=f"Ask for fewer: --params ingestion.options.words.joined={len(made)}.",
        )
    return list(made.values()), dict(dropped)


def _pieces(word: str) -> list[str]:
    """Return the shortest runs of letters that make up more than two thirds of a word."""
    return _runs(word, min(len(word), max(_LEAST, int(len(word) * _COVERED) + 1)))


def _runs(word: str, size: int) -> list[str]:
    return [word[begin : begin + size] for begin in range(len(word) - size + 1)]


CORPUS = Corpus("words", None, parse)
