"""Resampling of documents: intervals, differences and p-values of figures that are functions of sums over examples.

Intervals are percentiles of a bootstrap over documents (Efron & Tibshirani, 1993, chapter 13): the examples of one
document are drawn together, and so are documents of one abstract, which count as one here. p-values come from paired
approximate randomisation (Noreen, 1989, chapter 2; for F1: Yeh, 2000): were two models equally good, each document's
outputs could as well have been the other model's.

Documents with equal sums are interchangeable, so a resample is one multinomial draw over the distinct sums. That is the
same distribution as drawing documents one by one, at a cost that hardly grows with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[Any]
Figure: TypeAlias = Callable[[Numbers], Numbers]
"""Sums, shape (…, columns) -> the figure, shape (…)."""

_DRAWN_AT_ONCE = 4_000_000
_SMALL = 1 << 22


def precision(sums: Numbers) -> Numbers:
    """Return precision from (true positives, false positives, false negatives)."""
    return _ratio(sums[..., 0], sums[..., 0] + sums[..., 1])


def recall(sums: Numbers) -> Numbers:
    """Return recall from (true positives, false positives, false negatives)."""
    return _ratio(sums[..., 0], sums[..., 0] + sums[..., 2])


def f1(sums: Numbers) -> Numbers:
    """Return F1 from (true positives, false positives, false negatives)."""
    return _ratio(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def share(sums: Numbers) -> Numbers:
    """Return the first column over the second: a rate, or a mean over examples."""
    return _ratio(sums[..., 0], sums[..., 1])


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    whole = numpy.asarray(whole, dtype=float)
    result: Numbers = numpy.divide(part, whole, out=numpy.zeros_like(whole), where=whole > 0)
    return result


class Resampling:
    """Random resamples of documents.

    Args:
        documents: Document of every example, shape (examples,); any whole numbers.
        resamples: How many.
        seed: Equal seeds draw equally.
    """

    def __init__(self, documents: Numbers, resamples: int, seed: int) -> None:
        names, self._document = numpy.unique(documents, return_inverse=True)
        self._documents = len(names)
        self._resamples = resamples
        self._seed = seed

    def interval(self, columns: Numbers, figure: Figure = f1) -> list[float]:
        """Return the 95 % interval of a figure.

        Args:
            columns: What each example adds to the sums, shape (examples, columns).
            figure: The figure.
        """
        return _middle(figure(self._draw(columns)))

    def intervals(self, columns: Numbers, figures: Mapping[str, Figure]) -> dict[str, list[float]]:
        """Return the 95 % intervals of several figures of the same sums, from the same draws."""
        drawn = self._draw(columns)
        return {name: _middle(figure(drawn)) for name, figure in figures.items()}

    def compare(self, mine: Numbers, theirs: Numbers, figures: Mapping[str, Figure]) -> dict[str, dict[str, Any]]:
        """Compare two models on the same examples.

        Args:
            mine: What each example adds to one model's sums, shape (examples, columns).
            theirs: The same of the other model.
            figures: Figures of these sums.

        Returns:
            By figure ``value`` (mine minus theirs), its 95 % ``interval`` (every draw takes both models), and the
            two-sided ``p_value``: (exchanges at least as far apart + 1) / (resamples + 1).
        """
        width = mine.shape[1]
        kinds, number = self._distinct(numpy.concatenate([mine, theirs], axis=1))
        drawn = self._sums(kinds, number)
        here, there = self._exchange(kinds, number, width)
        sums = number @ kinds
        found = {}
        for name, figure in figures.items():
            value = float(figure(sums[:width]) - figure(sums[width:]))
            beyond = int((numpy.abs(figure(here) - figure(there)) >= abs(value) - 1e-12).sum())
            found[name] = {
                "value": value,
                "interval": _middle(figure(drawn[:, :width]) - figure(drawn[:, width:])),
                "p_value": (beyond + 1) / (self._resamples + 1),
            }
        return found

    def _draw(self, columns: Numbers) -> Numbers:
        """Return the sums of every resample, shape (resamples, columns)."""
        return self._sums(*self._distinct(columns))

    def _sums(self, kinds: Numbers, number: Numbers) -> Numbers:
        rng = numpy.random.default_rng(self._seed)
        share_of = number / self._documents
        return self._blockwise(len(number), lambda size: rng.multinomial(self._documents, share_of, size=size) @ kinds)

    def _exchange(self, kinds: Numbers, number: Numbers, width: int) -> tuple[Numbers, Numbers]:
        """Return both models' sums after random exchanges of documents; each of shape (resamples, width)."""
        rng = numpy.random.default_rng(self._seed)
        mine, theirs = kinds[:, :width], kinds[:, width:]
        # of equal documents only the number that is exchanged matters
        gained = self._blockwise(
            len(number), lambda size: rng.binomial(number, 0.5, size=(size, len(number))) @ (theirs - mine)
        )
        return number @ mine + gained, number @ theirs - gained

    def _blockwise(self, kinds: int, draw: Callable[[int], Numbers]) -> Numbers:
        """Draw all resamples, but never more numbers at once than fit into some 30 MB."""
        size = max(1, _DRAWN_AT_ONCE // max(1, kinds))
        blocks = [min(size, self._resamples - begin) for begin in range(0, self._resamples, size)]
        return numpy.concatenate([draw(block) for block in blocks])

    def _distinct(self, columns: Numbers) -> tuple[Numbers, Numbers]:
        """Return the distinct sums of documents, shape (kinds, columns), in order, and how many documents have each."""
        summed = [numpy.bincount(self._document, column, self._documents) for column in columns.T]
        codes: Numbers = numpy.zeros(self._documents, dtype=numpy.int64)
        width = 1
        for column in summed:
            values, places = _numbered(column)
            if width * len(values) > _SMALL:
                known, codes = numpy.unique(codes, return_inverse=True)
                width = len(known)
            codes = codes * len(values) + places
            width *= len(values)
        if width <= _SMALL:
            number = numpy.bincount(codes)
            first: Numbers = numpy.zeros(len(number), dtype=numpy.int64)
            first[codes[::-1]] = numpy.arange(len(codes))[::-1]
            chosen = numpy.flatnonzero(number)
            first, number = first[chosen], number[chosen]
        else:
            _, first, number = numpy.unique(codes, return_index=True, return_counts=True)
        return numpy.stack([column[first] for column in summed], axis=1), number


def _numbered(column: Numbers) -> tuple[Numbers, Numbers]:
    """Return the values that may occur, in order, and the place of every element among them."""
    twice = column * 2  # counts are whole, or halves under `partial`
    if twice.min(initial=0) >= 0 and twice.max(initial=0) < _SMALL // 4:
        whole = twice.astype(numpy.int64)
        if (whole == twice).all():
            present = numpy.bincount(whole) > 0
            return numpy.flatnonzero(present) / 2, (numpy.cumsum(present) - 1)[whole]
    values, places = numpy.unique(column, return_inverse=True)
    return values, places


def _middle(values: Numbers) -> list[float]:
    low, high = numpy.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]
