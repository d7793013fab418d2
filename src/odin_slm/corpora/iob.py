"""Token-per-line IOB files (CoNLL style): one token and its tag a line, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.faults import CUT_OFF, Faults
from odin_slm.corpora.parsed import numbered_lines

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
        CorpusFormatError: Lines are no ``token<TAB>tag``, or there is none; raised at the end, all with ``file:line``.
    """
    faults = Faults()
    rows: list[tuple[str, str, str]] = []
    empty = True
    for number, line in numbered_lines(file, text, faults):
        if not line.strip():
            if rows:
                yield rejoined(rows)
            rows = []
            continue
        empty = False
        with faults.collected():
            rows.append(_tagged(line, f"{file}:{number}"))
    with faults.collected():
        if empty:
            raise CorpusFormatError("found no tokens; expected 'token<TAB>tag'.", where=f"{file}:1", fix=CUT_OFF)
    faults.stop()
    if rows:
        yield rejoined(rows)


def _tagged(line: str, where: str) -> tuple[str, str, str]:
    token, _, tag = line.partition("\t")
    match = _TAG.fullmatch(tag)
    if not token or not match:
        raise CorpusFormatError(
            f"expected 'token<TAB>tag' with tag O, B-Type or I-Type, found {line[:60]!r}.",
            where=where,
            fix="Write one token and its tag a line, a tab between them.",
        )
    return token, match[1] or "O", match[2] or ""


def rejoined(rows: list[tuple[str, str, str]]) -> TaggedSentence:
    """Return running text of rows of token, ``B``, ``I`` or ``O``, and type; an ``I`` that goes on nothing begins."""
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
