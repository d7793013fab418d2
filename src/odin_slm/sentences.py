"""Sentence boundaries of biomedical abstracts, as character spans."""

from __future__ import annotations

import re

_BOUNDARY = re.compile(r"(?<=[.?!])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|e\.g|i\.e|vs|al|Fig|Dr|St|No|approx|ca|cf|resp)\.$")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the (begin, end) of each sentence, without the white space between them.

    A full stop ends a sentence where white space and then a capital, a digit or an opening bracket follow, unless an
    initial or a common abbreviation stands before it. A text without words is one span.
    """
    spans: list[tuple[int, int]] = []
    begin = 0
    for match in _BOUNDARY.finditer(text):
        if _ABBREVIATION.search(text[begin : match.start()]) and text[match.start() - 1] == ".":
            continue
        end = match.end() - len(match[0]) + len(match[0].rstrip())
        spans.append((begin, end))
        begin = match.end()
    spans.append((begin, len(text.rstrip()) if text.strip() else len(text)))
    return [span for span in spans if span[1] > span[0]] or [(0, len(text))]
