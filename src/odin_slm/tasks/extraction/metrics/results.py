"""Evaluation results: what is computed from predictions, under which names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy

from odin_slm.core.errors import PredictionsError
from odin_slm.tasks.extraction.metrics import modes
from odin_slm.tasks.extraction.metrics.items import (
    Numbers,
    Pair,
    Rows,
    distinct,
    per_row,
    read_examples,
)
from odin_slm.tasks.extraction.metrics.rules import RULES, Compared, Context, Strings, strings_of
from odin_slm.tasks.extraction.metrics.taxonomy import count_errors
from odin_slm.tasks.extraction.schema import MEDICAL, Types
from odin_slm.tasks.resampling import Figure, Resampling, f1, precision, recall, share
from odin_slm.tasks.rows import not_comparable, test_set_of, training_set_of

KINDS = ("entity", "relation")

HEADLINE = tuple(f"{kind}_f1_micro" for kind in KINDS)
"""The figures that decide which model is better; the others are reported."""

_LENGTH_BINS = 5
_MICRO_ORDER = ("precision", "recall", "f1")
_MICRO: dict[str, Figure] = {"f1": f1, "precision": precision, "recall": recall}


def evaluate(
    predictions: Rows,
    base_predictions: Rows | None = None,
    training_records: Rows | None = None,
    *,
    experiment: str,
    resamples: int = 1000,
    seed: int = 42,
    types: Types = MEDICAL,
    rules: Collection[str] | None = None,
) -> dict[str, Any]:
    """Score a model's predictions and compare them with the base model's on the same examples.

    Args:
        predictions: Rows of the fine-tuned model. ``decoding`` says how ``prediction`` came about; ``free`` may hold
            the fields of a second, free decoding.
        base_predictions: Rows of the base model alone, or None. Rows of other examples are not compared.
        training_records: Records whose strings count as seen, or None.
        experiment: Name of the experiment.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        types: The types that outputs may name.
        rules: Names of the :data:`~odin_slm.tasks.extraction.metrics.rules.RULES` to score by; None: all of them.

    Returns:
        ``evaluation_results``: ``experiment``, ``test_set``, ``training_set``, ``decoding``, everything of
        :func:`score` for the headline decoding, the same under ``free`` for the other one, with
        ``decoding_difference`` between the two, and for the base under ``base`` (None where there is none);
        ``difference`` is fine-tuned minus base, ``free_difference`` the same under free decoding, ``comparison`` why
        there is none. Differences are those of :func:`difference`.

    Raises:
        PredictionsError: See :func:`score`.
    """
    seen = strings_of(training_records, types) if training_records else None
    own = _Model(predictions, resamples, seed, types, rules)
    results = {
        "experiment": experiment,
        "test_set": test_set_of(predictions, "document"),
        "training_set": training_set_of(training_records),
        **own.scores(seen),
    }
    refusal = not_comparable(predictions, base_predictions)
    base = None if refusal or base_predictions is None else _Model(base_predictions, resamples, seed, types, rules)
    results["base"] = base.scores(seen) if base else None
    results["difference"] = own.headline.minus(base.headline) if base else None
    if base and own.free and base.free:
        results["free_difference"] = own.free.minus(base.free)
    results["comparison"] = refusal or "fine-tuned minus base, paired by document"
    return results


def score(
    predictions: Rows,
    *,
    seen: Strings | None = None,
    resamples: int = 1000,
    seed: int = 42,
) -> dict[str, Any]:
    """Score predictions of the medical types under ``exact`` and its variants.

    Args:
        predictions: Rows of a predictions file.
        seen: Strings that training has shown; adds the variants ``seen`` and ``unseen``.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        ``entity_metrics`` and ``relation_metrics``, each with ``micro``, ``macro`` (over examples), ``macro_by_type``
        (over the types that occur), ``by_type`` and ``by_source``; ``output_quality``; ``intervals`` of 95 % of
        every headline figure; ``variants``, by mode of :mod:`odin_slm.tasks.extraction.metrics.modes`, and
        ``with_gold`` (only examples with something to find); ``errors``; ``by_length``.

    Raises:
        PredictionsError: There is no row, a field is missing, or an id occurs twice.
    """
    return _Scorer(predictions, resamples, seed, MEDICAL).scores(seen)


def difference(
    predictions: Rows,
    others: Rows,
    *,
    resamples: int = 1000,
    seed: int = 42,
    name: str = "other model",
    types: Types = MEDICAL,
) -> dict[str, dict[str, Any]]:
    """Compare two models on the same examples, paired by document.

    Args:
        predictions: Rows of a predictions file.
        others: Rows of another one.
        resamples: Bootstrap resamples, and random exchanges.
        seed: Seed of both.
        name: What an error calls the model behind ``others``.
        types: The types that outputs may name.

    Returns:
        ``entity_f1_micro``, ``entity_precision_micro``, ``entity_recall_micro``, ``entity_f1_macro`` and the same for
        relations, each with ``value`` (predictions minus others), the 95 % ``interval`` of a paired bootstrap, and
        the two-sided ``p_value`` of paired approximate randomisation.

    Raises:
        PredictionsError: The rows are not of the same examples, or not of the same data.
    """
    refusal = not_comparable(predictions, others, name)
    if refusal:
        raise PredictionsError(f"{refusal}.", fix="Make both with the same data and test set.")
    return _Scorer(predictions, resamples, seed, types).minus(_Scorer(others, resamples, seed, types))


def micro(predictions: Rows, *, resamples: int = 1000, seed: int = 42, types: Types = MEDICAL) -> dict[str, Any]:
    """Return the micro averages of :func:`score` alone, with their ``intervals``."""
    scorer = _Scorer(predictions, resamples, seed, types)
    return {
        **{f"{kind}_metrics": {"micro": _total(scorer.counts[kind])} for kind in KINDS},
        "intervals": {name: interval for kind in KINDS for name, interval in scorer.micro_intervals(kind).items()},
    }


def micro_f1(predictions: Rows, types: Types = MEDICAL) -> dict[str, float]:
    """Return ``entity_f1_micro`` and ``relation_f1_micro`` alone."""
    counts = _Scorer(predictions, 1, 0, types).counts
    return {f"{kind}_f1_micro": float(_total(counts[kind])["f1"]) for kind in KINDS}


def ratios(tp: float, fp: float, fn: float) -> dict[str, float]:
    """Return precision, recall and F1 of counts; 0 where a ratio has no denominator."""
    return {
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn) if tp + fn else 0.0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
    }


class _Model:
    """One model's predictions, under one decoding or two."""

    def __init__(
        self, rows: Rows, resamples: int, seed: int, types: Types, rules: Collection[str] | None = None
    ) -> None:
        self.headline = _Scorer(rows, resamples, seed, types, rules)
        self._decoding = rows[0].get("decoding", "free")
        both = all("free" in row for row in rows)
        self.free = _Scorer([{**row, **row["free"]} for row in rows], resamples, seed, types, rules) if both else None

    def scores(self, seen: Strings | None) -> dict[str, Any]:
        """Return the scores of both decodings and their difference."""
        scores = {"decoding": self._decoding, **self.headline.scores(seen)}
        if self.free:
            scores["free"] = self.free.scores(seen)
            scores["decoding_difference"] = self.headline.minus(self.free)
        return scores


class _Scorer:
    """One set of predictions, read and counted."""

    def __init__(
        self, rows: Rows, resamples: int, seed: int, types: Types, rules: Collection[str] | None = None
    ) -> None:
        self._examples = read_examples(rows, types)
        self._options = (resamples, seed)
        self._rules = rules
        self._types = {"entity": types.entities, "relation": types.relations}
        self._resampling = Resampling(self._examples.groups, resamples, seed)
        self._reachable = (
            [row["gold_reachable"] for row in rows] if all("gold_reachable" in row for row in rows) else None
        )

    @cached_property
    def pairs(self) -> dict[str, Pair]:
        """By kind what ``exact`` compares."""
        return {
            "entity": modes.exact_entities(self._examples),
            "relation": modes.exact_relations(self._examples),
        }

    @cached_property
    def counts(self) -> dict[str, Numbers]:
        """By kind the counts of every example under ``exact``."""
        return {kind: modes.count(pair) for kind, pair in self.pairs.items()}

    def scores(self, seen: Strings | None) -> dict[str, Any]:
        """Return what :func:`score` does."""
        quality, rate_intervals = self._output_quality()
        return {
            **{f"{kind}_metrics": self._metrics(kind) for kind in KINDS},
            "output_quality": quality,
            "intervals": {**self._intervals(), **rate_intervals},
            "variants": self._variants(seen),
            "errors": count_errors(self._examples, self.pairs["entity"], self.pairs["relation"]),
            "by_length": self._by_length(),
        }

    def minus(self, other: _Scorer) -> dict[str, dict[str, Any]]:
        """Return what :func:`difference` does; the other's rows are of the same examples, in any order."""
        places = {name: place for place, name in enumerate(other._examples.ids)}
        order = numpy.array([places[name] for name in self._examples.ids])
        found: dict[str, dict[str, Any]] = {}
        for kind in KINDS:
            mine, theirs = self.counts[kind], other.counts[kind][order]
            compared = self._resampling.compare(mine, theirs, _MICRO)
            macro = self._resampling.compare(_macro_columns(mine)["f1"], _macro_columns(theirs)["f1"], {"f1": share})
            found |= {f"{kind}_{name}_micro": values for name, values in compared.items()}
            found[f"{kind}_f1_macro"] = macro["f1"]
        return found

    def micro_intervals(self, kind: str) -> dict[str, list[float]]:
        """Return the intervals of the micro averages of a kind."""
        intervals = self._resampling.intervals(self.counts[kind], _MICRO)
        return {f"{kind}_{name}_micro": interval for name, interval in intervals.items()}

    # Headline

    def _metrics(self, kind: str) -> dict[str, Any]:
        counts = self.counts[kind]
        by_type = {
            name: {**block, "f1_interval": self._resampling.interval(own)}
            for name, own, block in _by_type(self.pairs[kind], self._types[kind], modes.count)
        }
        by_source = {}
        for source in sorted(self._examples.source_names):
            chosen = self._examples.sources == self._examples.source_names.index(source)
            own = counts * chosen[:, None]
            by_source[source] = {
                **_block(own),
                "macro_f1": float(_macro_columns(counts[chosen])["f1"][:, 0].mean()),
                "examples": int(chosen.sum()),
                "f1_interval": self._resampling.interval(own),
            }
        return {
            "micro": _total(counts),
            "macro": _macro(counts),
            "macro_by_type": _mean_of(by_type),
            "by_type": by_type,
            "by_source": by_source,
        }

    def _intervals(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for kind in KINDS:
            counts = self.counts[kind]
            found |= self.micro_intervals(kind)
            for name, columns in _macro_columns(counts).items():
                found[f"{kind}_{name}_macro"] = self._resampling.interval(columns, share)
        return found

    def _output_quality(self) -> tuple[dict[str, Any], dict[str, list[float]]]:
        examples, size = self._examples, len(self._examples)
        listed = examples.predicted.entities
        width = max(1, len(examples.texts.normalised))
        places = listed.rows * width + listed.texts
        listed_texts, foreign = (per_row(size, distinct(p) // width) for p in (places, places[examples.foreign]))
        ones = numpy.ones(size)
        columns = {
            "parse_failure_rate": (examples.malformed | examples.unfinished, ones),
            "unfinished_rate": (examples.unfinished, ones),
            "hallucinated_entity_rate": (foreign, listed_texts),
        }
        quality: dict[str, Any] = {}
        intervals = {}
        for name, (part, whole) in columns.items():
            both = numpy.stack([part, whole], axis=1).astype(float)
            quality[name] = float(share(both.sum(axis=0)))
            intervals[name] = self._resampling.interval(both, share)
        quality["examples"] = size
        if self._reachable is not None:
            ids = [name for name, reachable in zip(examples.ids, self._reachable, strict=True) if not reachable]
            quality["unreachable_gold"] = {"count": len(ids), "ids": ids}
        return quality, intervals

    # Variants

    def _variants(self, seen: Strings | None) -> dict[str, dict[str, Any]]:
        context = Context(self._examples, self.pairs, seen)
        compared = {
            rule.name: rule.compare(context) for rule in RULES if self._rules is None or rule.name in self._rules
        }
        return {
            name: {f"{kind}_metrics": self._variant(kind, one) for kind, one in kinds.items()}
            for name, kinds in compared.items()
            if kinds
        }

    def _variant(self, kind: str, compared: Compared) -> dict[str, Any]:
        counts, chosen = compared.count(compared.pair), compared.chosen
        block: dict[str, Any] = {"micro": {**_total(counts), "f1_interval": self._resampling.interval(counts)}}
        if compared.macro:
            averaged = counts if chosen is None else counts[chosen]
            # A mean over no example is 0, as every ratio without a denominator.
            block["macro"] = _macro(averaged) if len(averaged) else dict.fromkeys(_MICRO_ORDER, 0.0)
        if compared.by_type:
            types = self._types[kind]
            block["by_type"] = {name: v for name, _, v in _by_type(compared.pair, types, compared.count)}
        return block if chosen is None else {**block, "examples": int(chosen.sum())}

    # Length

    def _by_length(self) -> list[dict[str, Any]]:
        """Score bins of equal size by the number of words of the input, shortest first; equal lengths share a bin."""
        words = self._examples.words
        ordered = numpy.sort(words)
        edges = sorted({int(ordered[len(ordered) * k // _LENGTH_BINS]) for k in range(_LENGTH_BINS)})
        rows = []
        for low, following in zip(edges, [*edges[1:], int(ordered[-1]) + 1], strict=True):
            chosen = (words >= low) & (words < following)
            resampling = Resampling(self._examples.groups[chosen], *self._options)
            row: dict[str, Any] = {
                "words": [low, int(words[chosen].max())],
                "examples": int(chosen.sum()),
            }
            for kind in KINDS:
                counts = self.counts[kind][chosen]
                row[f"{kind}_f1"] = _total(counts)["f1"]
                row[f"{kind}_f1_interval"] = resampling.interval(counts)
            rows.append(row)
        return rows


# Counts to figures

_Count = Callable[[Pair], Numbers]


def _total(counts: Numbers) -> dict[str, float]:
    tp, fp, fn = counts.sum(axis=0).tolist()
    return {**ratios(tp, fp, fn), "tp": tp, "fp": fp, "fn": fn}


def _block(counts: Numbers) -> dict[str, float]:
    totals = _total(counts)
    return {**totals, "support": totals["tp"] + totals["fn"]}


def _by_type(pair: Pair, types: Sequence[str], count: _Count) -> Iterator[tuple[str, Numbers, dict[str, float]]]:
    """Yield (type, counts per example, scores) for every type that gold or predictions hold, on its items alone."""
    for number, name in enumerate(types):
        own = count(pair.select(pair.predicted.types == number, pair.gold.types == number))
        if own.any():
            yield name, own, _block(own)


def _macro_columns(counts: Numbers) -> dict[str, Numbers]:
    """Return by measure, for every example, its value and 1; nothing to find and nothing found is right."""
    nothing = ~counts.any(axis=1)
    ones = numpy.ones(len(counts))
    return {
        name: numpy.stack([numpy.where(nothing, 1.0, figure(counts)), ones], axis=1)
        for name, figure in (("precision", precision), ("recall", recall), ("f1", f1))
    }


def _macro(counts: Numbers) -> dict[str, float]:
    return {name: float(columns[:, 0].mean()) for name, columns in _macro_columns(counts).items()}


def _mean_of(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return means over types (how SpERT and others print "macro" for ADE)."""
    return {
        name: sum(block[name] for block in blocks.values()) / len(blocks) if blocks else 0.0
        for name in ("precision", "recall", "f1")
    }
