"""Sentence boundaries of biomedical abstracts, as character spans."""

from __future__ import annotations

import re

_BOUNDARY = re.compile(r"(?<=[.?!])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATIONS = ("e.g", "i.e", "vs", "al", "Fig", "Dr", "St", "No", "approx", "ca", "cf", "resp")
_ABBREVIATION = re.compile(rf"\b(?:[A-Z]|{'|'.join(map(re.escape, _ABBREVIATIONS))})\.$")
# How far before a boundary an abbreviation can begin. Looking from the begin of the sentence would take time with the
# square of its length; \b sees the character before the place where a search begins.
_REACH = max(map(len, _ABBREVIATIONS)) + len(".")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the (begin, end) of each sentence, without the white space between them.

    A full stop ends a sentence where white space and then a capital, a digit or an opening bracket follow, unless an
    initial or a common abbreviation stands before it. A text without words is one span.
    """
    spans: list[tuple[int, int]] = []
    begin = 0
    for match in _BOUNDARY.finditer(text):
        stop = match.start()
        if text[stop - 1] == "." and _ABBREVIATION.search(text, max(begin, stop - _REACH), stop):
            continue
        end = match.end() - len(match[0]) + len(match[0].rstrip())
        spans.append((begin, end))
        begin = match.end()
    spans.append((begin, len(text.rstrip()) if text.strip() else len(text)))
    return [span for span in spans if span[1] > span[0]] or [(0, len(text))]
