"""Sentences of a text, and windows of whole sentences: the records of a training, and what a model reads at once."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

_BOUNDARY = re.compile(r"(?<=[.?!])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATIONS = ("e.g", "i.e", "vs", "al", "Fig", "Dr", "St", "No", "approx", "ca", "cf", "resp")
_ABBREVIATION = re.compile(rf"\b(?:[A-Z]|{'|'.join(map(re.escape, _ABBREVIATIONS))})\.$")
# How far before a boundary an abbreviation can begin. Looking from the beginning of the sentence would take time
# with the square of its length; \b sees the character before the place where a search begins.
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


def pack(
    units: Sequence[tuple[int, int]], longest: Callable[[int], int], overlap: int = 0
) -> Iterator[tuple[int, int]]:
    """Pack the units of a text into windows, from the left, each as long as it may be.

    Args:
        units: (begin, end) of each sentence, or of whatever must not be cut, in text order.
        longest: How many units from a given one on fit into one window; at least 1.
        overlap: Units that a window shares with the one before, as far as they leave room for a new one.

    Yields:
        (begin, end) of each window, in text order.
    """
    first = reached = 0
    while reached < len(units):
        last = first + longest(first)
        if last <= reached:  # the shared units leave no room for a new one
            first += 1
            continue
        yield units[first][0], units[last - 1][1]
        reached, first = last, max(first + 1, last - overlap)


def windows(text: str, count: Callable[[list[str]], list[int]], budget: int, overlap: int = 1) -> list[tuple[int, int]]:
    """Cut a text into windows of whole sentences that overlap.

    A sentence longer than the budget is cut between words, and a word longer than that between characters.

    Args:
        text: The text.
        count: Counts the tokens of each of several texts.
        budget: Tokens of a window, at least 8.
        overlap: Sentences that a window shares with the one before, as far as they leave room for a new one.

    Returns:
        (begin, end) of each window, in text order; together they hold every character that is not white space.
    """
    if budget < 8:
        raise ValueError(f"a window needs a budget of at least 8 tokens, found {budget}.")
    if count([text])[0] <= budget:
        return [(0, len(text))]
    units = [piece for span in sentence_spans(text) for piece in _pieces(text, span, count, budget)]
    # White space between two sentences belongs to the first of them.
    starts = [begin for begin, _ in units]
    costs = count([text[a:b] for a, b in zip(starts, [*starts[1:], units[-1][1]], strict=True)])
    sums = [0, *accumulate(costs)]
    return list(pack(units, lambda first: max(1, bisect_right(sums, sums[first] + budget) - 1 - first), overlap))


def _pieces(
    text: str, span: tuple[int, int], count: Callable[[list[str]], list[int]], budget: int
) -> Iterable[tuple[int, int]]:
    """Halve a span, between words where it has several, until each piece fits."""
    begin, end = span
    if end - begin <= 1 or count([text[begin:end]])[0] <= budget:
        return [span]
    middle = (begin + end) // 2
    for blanks in (" ", "\n\t\r"):  # lists and tables may hold no space
        places = [p for b in blanks for p in (text.rfind(b, begin + 1, middle), text.find(b, middle, end - 1)) if p > 0]
        if places:
            break
    cut = min(places, key=lambda place: abs(place - middle), default=-1)
    halves = [(begin, cut), (cut + 1, end)] if cut > begin else [(begin, middle), (middle, end)]
    return [piece for half in halves for piece in _pieces(text, half, count, budget)]
