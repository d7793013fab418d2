"""Words: those of a base's vocabulary, to learn spelling from, and those of an English word list, to be asked about.

The list is Debian's ``american-english`` (SCOWL); ``data/01_raw/words`` tells where it comes from. The vocabulary is
that of the experiment's base (:class:`odin_slm.datasets.corpus_files.VocabularyDataset`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field

from odin_slm.core.document import Document
from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.parsed import Corpus, ParsedCorpus, corpus_report, numbered_lines, require_files
from odin_slm.tasks.spelling.stem import stem

LIST, VOCABULARY = "american-english", "vocabulary.txt"

_TOKEN = re.compile(" ?[a-z]{2,}")
_COVERED = 2 / 3
"""Share of a word from which another that begins or ends it makes the two alike (`govern`, `government`)."""
_LEAST = 4


def parse(
    files: Mapping[str, str],
    train: Annotated[int, Field(ge=1)] | None = None,
    validation: Annotated[int, Field(ge=0)] = 100,
    test: Annotated[int, Field(ge=0)] = 400,
    shortest: Annotated[int, Field(ge=3)] = 5,
    longest: Annotated[int, Field(le=12)] = 12,
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
        seed: Seed of what is drawn.

    Raises:
        MissingInputError: A file is missing.
        CorpusFormatError: The list has too few words that the vocabulary does not know.
    """
    require_files(files, (VOCABULARY, LIST), "words")
    tokens = [line for _, line in numbered_lines(VOCABULARY, files[VOCABULARY])]
    learned = list(dict.fromkeys(token for token in tokens if _TOKEN.fullmatch(token)))
    known = {token.strip().casefold() for token in tokens}
    listed = sorted({line for _, line in numbered_lines(LIST, files[LIST])})
    fitting = [word for word in listed if re.fullmatch(f"[a-z]{{{shortest},{longest}}}", word)]
    unseen = _unlike(fitting, known)
    random.Random(f"{seed}-list").shuffle(unseen)
    distinct = list({stem(word): word for word in reversed(unseen)}.values())[::-1]
    if len(distinct) < validation + test:
        raise CorpusFormatError(
            f"found {len(distinct)} words that are unlike the vocabulary's; expected {validation + test}.",
            where=LIST,
            fix="Ask for fewer (ingestion.options.words), or name a longer list: --params words=DIR, for DIR/words/.",
        )
    documents = [
        *(_document(token, "train") for token in learned[:train]),
        *(_document(f" {word}", "validation") for word in distinct[:validation]),
        *(_document(f" {word}", "test") for word in distinct[validation : validation + test]),
    ]
    dropped = {"in the vocabulary, or alike": len(fitting) - len(unseen), "same stem": len(unseen) - len(distinct)}
    return ParsedCorpus(documents, corpus_report("words", documents, dropped=dropped, duplicates={}, inputs=files))


def _document(text: str, split: str) -> Document:
    word = text.strip()
    # the stem stands where abstracts have their PubMed id: documents that share it lie in one split
    return Document(f"words-{word}" + ("" if text.startswith(" ") else "-inside"), text, "words", stem(word), split)


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


CORPUS = Corpus("words", None, parse)
