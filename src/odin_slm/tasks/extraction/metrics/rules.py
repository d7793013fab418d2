"""The rules by which outputs are scored beside ``exact``: one object each, listed in ``task.options.metrics``.

To add one, write it here: what it compares (:mod:`odin_slm.tasks.extraction.metrics.modes` has the parts), and what it
means in the words of the report. Results, intervals, report and predictions follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from odin_slm.core.folding import fold
from odin_slm.tasks.extraction.format import read
from odin_slm.tasks.extraction.metrics import modes
from odin_slm.tasks.extraction.metrics.items import (
    Examples,
    Numbers,
    Pair,
    RelationItem,
    contained,
    per_row,
)
from odin_slm.tasks.extraction.schema import MEDICAL, Types


@dataclass(frozen=True, slots=True)
class Strings:
    """The strings that training has shown, normalised."""

    entities: frozenset[str]
    relations: frozenset[RelationItem]


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule has to go by.

    Attributes:
        examples: The predictions file, read.
        exact: By kind what ``exact`` compares.
        seen: What training has shown; None where that is not known.
    """

    examples: Examples
    exact: Mapping[str, Pair]
    seen: Strings | None


@dataclass(frozen=True, slots=True)
class Compared:
    """What a rule compares of one kind.

    Attributes:
        pair: Items of both sides.
        count: Pair -> true positives, false positives, false negatives of every example.
        macro: Whether a mean over examples makes sense.
        by_type: Whether scores of each type do.
        chosen: The only examples that a mean is over, and which are counted; None for all.
    """

    pair: Pair
    count: Callable[[Pair], Numbers] = modes.count
    macro: bool = True
    by_type: bool = True
    chosen: Numbers | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to score.

    Attributes:
        name: Its key under ``variants``.
        meaning: What it changes against ``exact``, for the report.
        compare: By kind what it compares; nothing where it does not apply.
    """

    name: str
    meaning: str
    compare: Callable[[Context], Mapping[str, Compared]]


def strings_of(records: Iterable[Mapping[str, Any]], types: Types = MEDICAL) -> Strings:
    """Return the entity texts and triples of records' gold outputs."""
    entities: set[str] = set()
    relations: set[RelationItem] = set()
    for record in records:
        listed, triples, _ = read(record["output"], types)
        entities.update(fold(text) for _, text in listed)
        relations.update((fold(head), kind, fold(tail)) for head, kind, tail in triples)
    return Strings(frozenset(entities), frozenset(relations))


def _strict(context: Context) -> dict[str, Compared]:
    return {"relation": Compared(modes.typed_relations(context.examples))}


def _boundaries(context: Context) -> dict[str, Compared]:
    return {"entity": Compared(modes.untyped_entities(context.examples), by_type=False)}


def _partial(context: Context) -> dict[str, Compared]:
    texts, types = context.examples.texts.normalised, context.examples.types
    return {
        "entity": Compared(context.exact["entity"], lambda pair: modes.partial_entities(pair, texts, types)),
        "relation": Compared(context.exact["relation"], lambda pair: modes.partial_relations(pair, texts, types)),
    }


def _collapsed(context: Context) -> dict[str, Compared]:
    synonyms = dict(context.examples.types.synonyms)
    if not synonyms:
        return {}
    return {
        "entity": Compared(modes.collapsed_entities(context.examples)),
        "relation": Compared(modes.typed_relations(context.examples, synonyms)),
    }


def _any_mention(context: Context) -> dict[str, Compared]:
    if context.examples.aliases is None:
        return {}
    entities, relations = modes.any_mention(context.examples, context.examples.aliases)
    return {"entity": Compared(entities), "relation": Compared(relations)}


def _with_gold(context: Context) -> dict[str, Compared]:
    found = {}
    for kind, pair in context.exact.items():
        chosen = per_row(pair.size, pair.gold.rows) > 0
        found[kind] = Compared(pair.select(chosen[pair.predicted.rows], chosen[pair.gold.rows]), chosen=chosen)
    return found


def _shown(shown: bool) -> Callable[[Context], dict[str, Compared]]:
    def compare(context: Context) -> dict[str, Compared]:
        if context.seen is None:
            return {}
        masks = dict(_masks(context, context.seen))
        return {
            kind: Compared(_select(pair, masks[kind] == shown), macro=False) for kind, pair in context.exact.items()
        }

    return compare


RULES = (
    Rule("strict", "relation arguments must carry the right entity types, too", _strict),
    Rule("boundaries", "the types of entities do not count", _boundaries),
    Rule("partial", "half a point for overlapping words, types of entities ignored (SemEval-2013 task 9)", _partial),
    Rule("collapsed", "types of the same strings count as one type; relation arguments carry types", _collapsed),
    Rule("any_mention", "a concept may be named by any of its surface forms in the document", _any_mention),
    Rule("with_gold", "only examples in which there is something to find", _with_gold),
    Rule("seen", "only strings that the training split shows", _shown(shown=True)),
    Rule("unseen", "only strings that the training split never shows", _shown(shown=False)),
)
"""All rules, in the order of the report."""


def _masks(context: Context, seen: Strings) -> Iterator[tuple[str, Numbers]]:
    """Yield by kind which distinct items training has shown."""
    examples, entities, relations = context.examples, context.exact["entity"], context.exact["relation"]
    number = examples.texts.known
    known: Numbers = numpy.zeros(len(examples.texts.normalised), dtype=bool)
    known[[place for text in seen.entities if (place := number(text)) >= 0]] = True
    yield "entity", known[entities.heads]
    types = examples.types.relations
    triples = [(number(head), types.index(kind), number(tail)) for head, kind, tail in seen.relations]
    width = len(examples.texts.normalised) + 1

    def code(heads: Numbers, kinds: Numbers, tails: Numbers) -> Numbers:
        result: Numbers = (heads * len(types) + kinds) * width + tails
        return result

    possible = numpy.array([t for t in triples if t[0] >= 0 and t[2] >= 0], dtype=numpy.int64).reshape(-1, 3)
    yield "relation", contained(code(relations.heads, relations.kinds, relations.tails), numpy.sort(code(*possible.T)))


def _select(pair: Pair, chosen: Numbers) -> Pair:
    """Return the pair with those items of which the mask, shape (distinct items,), is true."""
    return pair.select(chosen[pair.predicted.items], chosen[pair.gold.items])
