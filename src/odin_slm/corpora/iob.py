"""Token-per-line IOB files (CoNLL style): one token and its tag a line, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from odin_slm.core.errors import CorpusFormatError

_NO_SPACE_BEFORE = re.compile(r"[.,;:!?%)\]}]|'s|n't")
_TAG = re.compile(r"O|([BI])-(\S+)")


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A sentence with typed spans.

    Attributes:
        text: Running text, punctuation rejoined.
        spans: (begin, end, type) in text order.
    """

    text: str
    spans: tuple[tuple[int, int, str], ...]


def parse_iob(text: str, file: str) -> Iterator[TaggedSentence]:
    """Read an IOB file and rejoin its tokens into running text.

    A space stands between two tokens, except before closing and after opening punctuation and around a hyphen or
    slash that the tokenisation cut out of a word.

    Raises:
        CorpusFormatError: A line is no ``token<TAB>tag``.
    """
    rows: list[tuple[str, str, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            if rows:
                yield _join(rows)
            rows = []
            continue
        token, _, tag = line.rstrip("\r").partition("\t")
        match = _TAG.fullmatch(tag)
        if not token or not match:
            raise CorpusFormatError(
                f"expected 'token<TAB>tag' with tag O, B-Type or I-Type, found {line[:60]!r}.",
                where=f"{file}:{number}",
                fix="Restore the file from its publisher.",
            )
        rows.append((token, match[1] or "O", match[2] or ""))
    if rows:
        yield _join(rows)


def _join(rows: list[tuple[str, str, str]]) -> TaggedSentence:
    text = ""
    spans: list[list[int | str]] = []
    glue = True
    for token, position, kind in rows:
        if not glue and not _NO_SPACE_BEFORE.fullmatch(token) and token not in "-/":
            text += " "
        begin = len(text)
        text += token
        if position == "B" or (position == "I" and (not spans or spans[-1][2] != kind or spans[-1][3] != "open")):
            spans.append([begin, len(text), kind, "open"])
        elif position == "I":
            spans[-1][1] = len(text)
        elif spans:
            spans[-1][3] = "closed"
        glue = token in ("(", "[", "{", "-", "/")
    return TaggedSentence(text, tuple((int(b), int(e), str(k)) for b, e, k, _ in spans))
