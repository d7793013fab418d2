"""Evaluation results: what is computed from predictions, under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy

from odin_slm.core.errors import PredictionsError
from odin_slm.tasks.extraction.format import read
from odin_slm.tasks.extraction.metrics import modes
from odin_slm.tasks.extraction.metrics.items import (
    Examples,
    Numbers,
    Pair,
    RelationItem,
    Rows,
    contained,
    distinct,
    normalise,
    per_row,
    read_examples,
)
from odin_slm.tasks.extraction.metrics.taxonomy import count_errors
from odin_slm.tasks.extraction.schema import MEDICAL, Types
from odin_slm.tasks.resampling import Figure, Resampling, f1, precision, recall, share
from odin_slm.tasks.rows import not_comparable, test_set_of, training_set_of

KINDS = ("entity", "relation")

HEADLINE = tuple(f"{kind}_f1_micro" for kind in KINDS)
"""The figures that decide which model is better; the others are reported."""

_LENGTH_BINS = 5
_MICRO: dict[str, Figure] = {"f1": f1, "precision": precision, "recall": recall}


@dataclass(frozen=True, slots=True)
class Strings:
    """The strings that training has shown, normalised."""

    entities: frozenset[str]
    relations: frozenset[RelationItem]


def strings_of(records: Iterable[Mapping[str, Any]], types: Types = MEDICAL) -> Strings:
    """Return the entity texts and triples of records' gold outputs."""
    entities: set[str] = set()
    relations: set[RelationItem] = set()
    for record in records:
        listed, triples, _ = read(record["output"], types)
        entities.update(normalise(text) for _, text in listed)
        relations.update((normalise(head), kind, normalise(tail)) for head, kind, tail in triples)
    return Strings(frozenset(entities), frozenset(relations))


def evaluate(
    predictions: Rows,
    base_predictions: Rows | None = None,
    training_records: Rows | None = None,
    *,
    experiment: str,
    resamples: int = 1000,
    seed: int = 42,
    types: Types = MEDICAL,
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
    own = _Model(predictions, resamples, seed, types)
    results = {
        "experiment": experiment,
        "test_set": test_set_of(predictions),
        "training_set": training_set_of(training_records),
        **own.scores(seen),
    }
    refusal = not_comparable(predictions, base_predictions)
    base = None if refusal or base_predictions is None else _Model(base_predictions, resamples, seed, types)
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
    types: Types = MEDICAL,
) -> dict[str, Any]:
    """Score predictions under ``exact`` and its variants.

    Args:
        predictions: Rows of a predictions file.
        seen: Strings that training has shown; adds the variants ``seen`` and ``unseen``.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        types: The types that outputs may name.

    Returns:
        ``entity_metrics`` and ``relation_metrics``, each with ``micro``, ``macro`` (over examples), ``macro_by_type``
        (over the types that occur), ``by_type`` and ``by_source``; ``output_quality``; ``intervals`` of 95 % of
        every headline figure; ``variants``, by mode of :mod:`odin_slm.tasks.extraction.metrics.modes`, and
        ``with_gold`` (only examples with something to find); ``errors``; ``by_length``.

    Raises:
        PredictionsError: There is no row, a field is missing, or an id occurs twice.
    """
    return _Scorer(predictions, resamples, seed, types).scores(seen)


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

    def __init__(self, rows: Rows, resamples: int, seed: int, types: Types) -> None:
        self.headline = _Scorer(rows, resamples, seed, types)
        self._decoding = rows[0].get("decoding", "free")
        both = all("free" in row for row in rows)
        self.free = _Scorer([{**row, **row["free"]} for row in rows], resamples, seed, types) if both else None

    def scores(self, seen: Strings | None) -> dict[str, Any]:
        """Return the scores of both decodings and their difference."""
        scores = {"decoding": self._decoding, **self.headline.scores(seen)}
        if self.free:
            scores["free"] = self.free.scores(seen)
            scores["decoding_difference"] = self.headline.minus(self.free)
        return scores


class _Scorer:
    """One set of predictions, read and counted."""

    def __init__(self, rows: Rows, resamples: int, seed: int, types: Types) -> None:
        self._examples = read_examples(rows, types)
        self._options = (resamples, seed)
        self._types = {"entity": types.entities, "relation": types.relations}
        self._resampling = Resampling(self._examples.documents, resamples, seed)
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
            micro = self._resampling.intervals(counts, _MICRO)
            found |= {f"{kind}_{name}_micro": interval for name, interval in micro.items()}
            for name, columns in _macro_columns(counts).items():
                found[f"{kind}_{name}_macro"] = self._resampling.interval(columns, share)
        return found

    def _output_quality(self) -> tuple[dict[str, Any], dict[str, list[float]]]:
        examples, size = self._examples, len(self._examples)
        listed = examples.predicted.entities
        width = max(1, len(examples.texts.normalised))
        places = listed.rows * width + listed.texts
        said, foreign = (per_row(size, distinct(p) // width) for p in (places, places[examples.foreign]))
        ones = numpy.ones(size)
        columns = {
            "parse_failure_rate": (examples.malformed | examples.unfinished, ones),
            "unfinished_rate": (examples.unfinished, ones),
            "hallucinated_entity_rate": (foreign, said),
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
        examples, texts = self._examples, self._examples.texts.normalised
        entities, relations = self.pairs["entity"], self.pairs["relation"]
        blocks: dict[str, dict[str, tuple[Pair, _Count]]] = {
            "strict": {"relation": (modes.typed_relations(examples), modes.count)},
            "boundaries": {"entity": (modes.untyped_entities(examples), modes.count)},
            "partial": {
                "entity": (entities, lambda pair: modes.partial_entities(pair, texts, examples.types)),
                "relation": (relations, lambda pair: modes.partial_relations(pair, texts, examples.types)),
            },
        }
        if synonyms := dict(examples.types.synonyms):
            blocks["collapsed"] = {
                "entity": (modes.collapsed_entities(examples), modes.count),
                "relation": (modes.typed_relations(examples, synonyms), modes.count),
            }
        if examples.aliases is not None:
            named = dict(zip(KINDS, modes.any_mention(examples, examples.aliases), strict=True))
            blocks["any_mention"] = {kind: (pair, modes.count) for kind, pair in named.items()}
        variants = {
            name: {f"{kind}_metrics": self._variant(kind, *block) for kind, block in kinds.items()}
            for name, kinds in blocks.items()
        }
        del variants["boundaries"]["entity_metrics"]["by_type"]
        variants["with_gold"] = {f"{kind}_metrics": self._with_gold(kind) for kind in KINDS}
        if seen is not None:
            for name, wanted in (("seen", True), ("unseen", False)):
                variants[name] = {
                    f"{kind}_metrics": self._variant(kind, _select(pair, mask == wanted), modes.count, macro=False)
                    for kind, pair, mask in (
                        ("entity", entities, _seen_entities(entities, examples, seen)),
                        ("relation", relations, _seen_relations(relations, examples, seen)),
                    )
                }
        return variants

    def _variant(self, kind: str, pair: Pair, count: _Count, *, macro: bool = True) -> dict[str, Any]:
        counts = count(pair)
        block: dict[str, Any] = {"micro": {**_total(counts), "f1_interval": self._resampling.interval(counts)}}
        if macro:
            block["macro"] = _macro(counts)
        block["by_type"] = {name: values for name, _, values in _by_type(pair, self._types[kind], count)}
        return block

    def _with_gold(self, kind: str) -> dict[str, Any]:
        pair = self.pairs[kind]
        chosen = per_row(pair.size, pair.gold.rows) > 0
        block = self._variant(kind, pair.select(chosen[pair.said.rows], chosen[pair.gold.rows]), modes.count)
        # A mean over no example is 0, as every ratio without a denominator.
        none = dict.fromkeys(("precision", "recall", "f1"), 0.0)
        block["macro"] = _macro(self.counts[kind][chosen]) if chosen.any() else none
        return {**block, "examples": int(chosen.sum())}

    # Length

    def _by_length(self) -> list[dict[str, Any]]:
        """Score bins of equal size by the number of words of the input, shortest first; equal lengths share a bin."""
        words = self._examples.words
        ordered = numpy.sort(words)
        edges = sorted({int(ordered[len(ordered) * k // _LENGTH_BINS]) for k in range(_LENGTH_BINS)})
        rows = []
        for low, following in zip(edges, [*edges[1:], int(ordered[-1]) + 1], strict=True):
            chosen = (words >= low) & (words < following)
            documents = self._examples.documents[chosen]
            resampling = Resampling(documents, *self._options)
            row: dict[str, Any] = {
                "words": [low, int(words[chosen].max())],
                "examples": int(chosen.sum()),
                "documents": len(numpy.unique(documents)),
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
        own = count(pair.select(pair.said.types == number, pair.gold.types == number))
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


# Seen in training


def _select(pair: Pair, chosen: Numbers) -> Pair:
    """Return the pair with those items of which the mask, shape (distinct items,), is true."""
    return pair.select(chosen[pair.said.items], chosen[pair.gold.items])


def _seen_entities(pair: Pair, examples: Examples, seen: Strings) -> Numbers:
    known: Numbers = numpy.zeros(len(examples.texts.normalised), dtype=bool)
    known[[number for text in seen.entities if (number := examples.texts.known(text)) >= 0]] = True
    mask: Numbers = known[pair.heads]
    return mask


def _seen_relations(pair: Pair, examples: Examples, seen: Strings) -> Numbers:
    number, relation_types = examples.texts.known, examples.types.relations
    triples = [(number(head), relation_types.index(kind), number(tail)) for head, kind, tail in seen.relations]
    width = len(examples.texts.normalised) + 1

    def code(heads: Numbers, kinds: Numbers, tails: Numbers) -> Numbers:
        result: Numbers = (heads * len(relation_types) + kinds) * width + tails
        return result

    possible = numpy.array([t for t in triples if t[0] >= 0 and t[2] >= 0], dtype=numpy.int64).reshape(-1, 3)
    return contained(code(pair.heads, pair.kinds, pair.tails), numpy.sort(code(*possible.T)))
