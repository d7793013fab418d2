"""The operating point of an extraction model: the biases of its lists' ends, and the least confidence of their items.

Both are fitted on validation records, entities first, then relations given these. A biased list is the begin of one
that is biased less, so that records are read only twice: once for entities, once for relations, each under the lowest
bias. What a higher bias leaves out is then known from the log-odds of ending after each line. So is every threshold.

Where entities are no list but tags in the text, or a list of all mentions, only the list of relations is biased, and
one reading tells both. Entities have a threshold in every form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from odin_slm.core.folding import fold
from odin_slm.tasks.extraction.calibration import confidence, fit_kind, key_of, too_few
from odin_slm.tasks.extraction.format import Listed, parse
from odin_slm.tasks.extraction.metrics import KINDS
from odin_slm.tasks.extraction.schema import MEDICAL, Types
from odin_slm.tasks.operating_point import KEY, VERSION, point_of, required_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from odin_slm.tasks.rows import Rows

BIASES = tuple(number / 2 for number in range(-8, 9))
"""The biases that are tried; the lowest is how records are read."""
_POINTS = 40
"""Points of a curve, at most."""


def exploration(
    explored: Rows, method: str, objective: str | None, types: Types = MEDICAL, *, entities_listed: bool = True
) -> dict[str, Any] | None:
    """Return with which point validation records are to be read next; see :meth:`odin_slm.tasks.Task.exploration`.

    ``entities_listed``: whether the end of the entities can be biased, too.
    """
    done = len(explored[0].get("explored", ())) if explored else 0
    if objective is None or done == (len(KINDS) if entities_listed else 1):
        return None if explored else {}
    bias = dict.fromkeys(KINDS, BIASES[0])
    if not entities_listed:
        return {"version": VERSION, "end_bias": {**bias, "entity": 0.0}}
    if not done:
        return {"version": VERSION, "end_bias": bias, "alone": "entity"}
    bias["entity"] = _Fit(explored, "entity", types, method, objective).bias
    return {"version": VERSION, "end_bias": bias}


def fit(predictions: Rows, method: str, objective: str, types: Types = MEDICAL) -> dict[str, Any]:
    """Fit a calibrator with an operating point.

    Args:
        predictions: See :meth:`odin_slm.tasks.Task.fit_calibration`. Rows that were not ``explored`` tell of no bias:
            thresholds alone are fitted.
        method: See :func:`odin_slm.tasks.extraction.calibration.fit`.
        objective: ``f1``, or ``precision=0.9``: the highest recall with at least that precision.
        types: The types that outputs may name.

    Returns:
        A calibrator; ``operating_point`` holds ``version``, ``objective``, ``end_bias`` (None where it could not be
        fitted) and ``threshold`` by kind, and ``validation``: ``records``, and by kind ``without`` and ``chosen``
        (precision, recall, f1), the curves ``by_bias`` (no threshold) and ``by_threshold`` (at the chosen bias), and
        ``why`` nothing was fitted, or what could not be reached. Figures of relations are those given the entities at
        their chosen point.
    """
    explored = bool(predictions) and "explored" in predictions[0]
    calibrator: dict[str, Any] = {"records": len(predictions)}
    point: dict[str, Any] = {"version": VERSION, "objective": objective, "end_bias": {}, "threshold": {}}
    validation: dict[str, Any] = {"records": len(predictions)}
    names: list[set[str]] | None = None
    for kind in KINDS:
        found = _Fit(predictions, kind, types, method, objective, names)
        names = found.names()
        calibrator[kind] = found.part
        point["end_bias"][kind], point["threshold"][kind] = found.bias, found.threshold
        validation[kind] = found.curves()
    if not explored:
        point["end_bias"] = None
    return {**calibrator, KEY: {**point, "validation": validation}}


def kept(
    output: str, lines: Sequence[float | None], calibrator: Mapping[str, Any] | None, types: Types = MEDICAL
) -> tuple[str, tuple[float | None, ...]]:
    """Return an output without what the operating point leaves out; see :meth:`odin_slm.tasks.Task.kept`.

    A relation goes with its entities.
    """
    thresholds = point_of(calibrator).get("threshold") or {}
    if not any(thresholds.values()):
        return output, tuple(lines)
    listed = Listed.of(parse(output, types), lines)

    def sure(kind: str, chance: float | None) -> bool:
        return chance is None or confidence(calibrator, kind, chance) >= thresholds[kind]

    entities = tuple(pair for pair in listed.entities if sure("entity", pair[1]))
    names = {fold(entity.text) for entity, _ in entities}
    relations = tuple(
        (relation, chance)
        for relation, chance in listed.relations
        if sure("relation", chance) and {fold(relation.head), fold(relation.tail)} <= names
    )
    left = Listed(entities, relations)
    return (output, tuple(lines)) if left == listed else left.output()


class Item(NamedTuple):
    """What an item of a list says (folded), its line's log-probability, the highest bias under which it is listed."""

    key: tuple[str, ...]
    chance: float
    limit: float


@dataclass
class _Ratios:
    """Items by falling confidence: each distinct confidence, the items down to it, and how many of them are right."""

    levels: NDArray[Any]
    listed: NDArray[Any]
    right: NDArray[Any]


class _Fit:
    """The fit of one kind.

    Args:
        rows: Validation rows.
        kind: ``entity`` or ``relation``.
        types: The types that outputs may name.
        method: How confidences are calibrated.
        objective: What the point is fitted for.
        names: For relations, the folded names of the entities that each row keeps.
    """

    def __init__(
        self,
        rows: Rows,
        kind: str,
        types: Types,
        method: str,
        objective: str,
        names: list[set[str]] | None = None,
    ) -> None:
        self._kind, self._method, self._precision = kind, method, required_precision(objective)
        self._gold = [set(parse(row["gold"], types).extraction.keys(kind)) for row in rows]
        self._gold_items = sum(map(len, self._gold))
        self._items = [items_of(row, kind, types) for row in rows]
        if names is not None:
            self._items = [
                [item for item in items if {item.key[0], item.key[-1]} <= known]
                for items, known in zip(self._items, names, strict=True)
            ]
        biased = any(math.isfinite(item.limit) for items in self._items for item in items)
        self._biases = BIASES if biased else (0.0,)
        self.bias, self.threshold = 0.0, 0.0
        self.part = self._part(0.0)
        few = too_few(kind, len(rows), len(self._judged(0.0)))
        self._why: str = self.part["why"] if method != "none" else few
        if not self._why:
            self._choose()

    def names(self) -> list[set[str]]:
        """Return the folded names of the entities that each row keeps at the chosen point."""
        return [
            {key[1] for key, chance in found.items() if self._calibrated(self.part, chance) >= self.threshold}
            for found in self._listed(self.bias)
        ]

    def curves(self) -> dict[str, Any]:
        """Return what the report shows: the figures without and with the point, and against bias and threshold."""
        by_bias = [{"bias": bias, **self._figures(self._part(bias), bias, 0.0)} for bias in self._biases]
        levels = self._ratios(self.part, self.bias).levels
        thresholds = sorted({0.0, self.threshold, *_between(levels)})
        few = thresholds if len(thresholds) <= _POINTS else thresholds[:: -(-len(thresholds) // _POINTS)]
        return {
            "without": self._figures(self._part(0.0), 0.0, 0.0),
            "chosen": self._figures(self.part, self.bias, self.threshold),
            "by_bias": by_bias,
            "by_threshold": [{"threshold": t, **self._figures(self.part, self.bias, t)} for t in few],
            "why": self._why,
        }

    def _choose(self) -> None:
        best: tuple[float, ...] = (-math.inf,)
        for bias in sorted(self._biases, key=abs):  # where two are as good, the one that changes less
            part = self._part(bias)
            ratios = self._ratios(part, bias)
            for threshold in (0.0, *reversed(_between(ratios.levels))):  # the lower ones first, for the same reason
                rank = self._rank(ratios, threshold)
                if rank > best:
                    best, self.bias, self.threshold, self.part = rank, bias, threshold, part
        if self._precision is not None and best[0] < self._precision:
            self._why = f"the highest precision on validation is {best[0]:.3f}"

    def _rank(self, ratios: _Ratios, threshold: float) -> tuple[float, ...]:
        figures = self._ratio(ratios, threshold)
        if self._precision is None:
            return (figures["f1"],)
        return min(figures["precision"], self._precision), figures["recall"]

    def _listed(self, bias: float) -> list[dict[tuple[str, ...], float]]:
        """Return what each row lists under a bias; what it repeats counts where it is likeliest."""
        found: list[dict[tuple[str, ...], float]] = []
        for items in self._items:
            best: dict[tuple[str, ...], float] = {}
            for key, chance, limit in items:
                if bias <= limit:
                    best[key] = max(chance, best.get(key, -math.inf))
            found.append(best)
        return found

    def _judged(self, bias: float) -> list[tuple[float, bool]]:
        return [
            (chance, key in gold)
            for found, gold in zip(self._listed(bias), self._gold, strict=True)
            for key, chance in found.items()
        ]

    def _part(self, bias: float) -> dict[str, Any]:
        return fit_kind(self._kind, self._judged(bias), len(self._gold), self._method)

    def _calibrated(self, part: Mapping[str, Any], chance: float) -> float:
        return confidence({self._kind: part}, self._kind, chance)

    def _ratios(self, part: Mapping[str, Any], bias: float) -> _Ratios:
        import numpy

        judged = self._judged(bias)
        chances = numpy.array([self._calibrated(part, chance) for chance, _ in judged])
        order = numpy.argsort(-chances, kind="stable")
        right = numpy.cumsum(numpy.array([correct for _, correct in judged], dtype=float)[order])
        chances = chances[order]
        ends = numpy.flatnonzero(numpy.append(numpy.diff(chances) != 0, True)) if judged else numpy.array([], int)
        return _Ratios(chances[ends], ends + 1, right[ends])

    def _figures(self, part: Mapping[str, Any], bias: float, threshold: float) -> dict[str, float]:
        return self._ratio(self._ratios(part, bias), threshold)

    def _ratio(self, ratios: _Ratios, threshold: float) -> dict[str, float]:
        number = int((ratios.levels >= threshold).sum())
        listed, right = (float(ratios.listed[number - 1]), float(ratios.right[number - 1])) if number else (0.0, 0.0)
        both = listed + self._gold_items
        figures = {
            "precision": right / listed if listed else 0.0,
            "recall": right / self._gold_items if self._gold_items else 0.0,
            "f1": 2 * right / both if both else 0.0,
        }
        return {name: round(value, 4) for name, value in figures.items()}


def _between(levels: NDArray[Any]) -> list[float]:
    """Return thresholds that part neighbouring confidences; half-way, so that rounding moves nothing across."""
    return [round(float(value), 6) for value in (levels[1:] + levels[:-1]) / 2]


def items_of(row: Mapping[str, Any], kind: str, types: Types = MEDICAL) -> list[Item]:
    """Return the items of a validation row, with repetitions.

    Args:
        row: See :meth:`odin_slm.tasks.Task.fit_calibration`.
        kind: ``entity`` or ``relation``.
        types: The types that outputs may name.
    """
    if "explored" not in row:
        entries = row["entities" if kind == "entity" else "relations"]
        return [
            Item(key_of(kind, e), e["log_probability"], math.inf) for e in entries if e["log_probability"] is not None
        ]
    found = row["explored"][: KINDS.index(kind) + 1][-1]  # one reading tells both where entities are no list
    parsed = parse(found["text"], types)
    lines = parsed.entity_lines if kind == "entity" else parsed.relation_lines
    items, limit = [], math.inf
    lines_before = (lines[0] - 1, *lines) if lines else ()
    for key, line, before in zip(parsed.extraction.keys(kind), lines, lines_before, strict=False):
        odds = found["ends"][before]
        limit = min(limit, math.inf if odds is None else -odds)
        items.append(Item(key, found["lines"][line], limit))
    return items
