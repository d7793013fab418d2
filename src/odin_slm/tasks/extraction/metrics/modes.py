"""What each scoring mode compares, and how it counts: per example true positives, false positives, false negatives.

- ``exact``, the headline: an entity is its type and text, a relation its head, type and tail;
- ``strict``: relation arguments carry their entity types (SpERT's "with NEC"; Taillé et al., 2020, "Strict");
- ``boundaries``: entities without their types (Taillé et al., 2020, "Boundaries"; nervaluate's "exact");
- ``partial``: half a point for overlapping words, whatever the entity type (SemEval-2013 task 9, "partial");
- ``any_mention``: a concept may be named by any of its surface forms in the document;
- ``collapsed``: entity types that corpora use for the same strings are one type (Disease and Symptom), and relation
  arguments carry it; only where the experiment names such synonyms.

Every mode compares sets per example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import TypeVar

import numpy

from odin_slm.tasks.extraction.metrics.items import (
    Aliases,
    Entities,
    EntityItem,
    Examples,
    Numbers,
    Pair,
    RelationItem,
    Relations,
    Side,
    by_row,
    collapse,
    contained,
    distinct,
    pair_entities,
    pair_relations,
    per_row,
)
from odin_slm.tasks.extraction.schema import Types

_Item = TypeVar("_Item", EntityItem, RelationItem)

_WORD = re.compile(r"\w+")


def count(pair: Pair) -> Numbers:
    """Return the counts of every example, shape (examples, 3)."""
    right = per_row(pair.size, pair.predicted.rows[contained(pair.predicted.keys, pair.gold.keys)])
    predicted, gold = per_row(pair.size, pair.predicted.rows), per_row(pair.size, pair.gold.rows)
    return numpy.stack([right, predicted - right, gold - right], axis=1)


# exact, collapsed, boundaries


def exact_entities(examples: Examples) -> Pair:
    """Return the entities that ``exact`` compares."""
    return pair_entities(len(examples), examples.predicted.entities, examples.gold.entities)


def exact_relations(examples: Examples) -> Pair:
    """Return the relations that ``exact`` compares."""
    return pair_relations(len(examples), examples.predicted.relations, examples.gold.relations)


def collapsed_entities(examples: Examples) -> Pair:
    """Return the entities that ``collapsed`` compares."""
    into = dict(examples.types.synonyms)
    predicted, gold = (collapse(side.entities, into, examples.types) for side in (examples.predicted, examples.gold))
    return pair_entities(len(examples), predicted, gold)


def untyped_entities(examples: Examples) -> Pair:
    """Return the entities that ``boundaries`` compares: texts."""
    one_type = dict.fromkeys(examples.types.entities, examples.types.entities[0])
    predicted, gold = (
        collapse(side.entities, one_type, examples.types) for side in (examples.predicted, examples.gold)
    )
    return pair_entities(len(examples), predicted, gold)


# strict


def typed_relations(examples: Examples, into: Mapping[str, str] | None = None) -> Pair:
    """Return relations whose arguments carry their entity types.

    An output names arguments by text alone. Where several entities have that text, the first pair in listed order that
    fits the relation's signature counts, or else the first pair; an argument that is not listed has no type.

    Args:
        examples: The examples.
        into: Entity types to replace before.
    """
    predicted, gold = (
        _with_types(
            replace(side, entities=collapse(side.entities, into or {}, examples.types)),
            len(examples.texts.normalised),
            examples.types,
        )
        for side in (examples.predicted, examples.gold)
    )
    return pair_relations(len(examples), predicted, gold)


def _with_types(side: Side, texts: int, types_of: Types) -> Relations:
    untyped = len(types_of.entities)  # type of an argument that is no listed entity
    fitting = _fitting(types_of)
    entities, relations = side.entities, side.relations
    width = max(1, texts)
    # the first of equal entities, in listed order
    keys = (entities.rows * width + entities.texts) * untyped + entities.types
    first = numpy.sort(numpy.unique(keys, return_index=True)[1])
    places = entities.rows[first] * width + entities.texts[first]
    types = entities.types[first]
    order = numpy.argsort(places, kind="stable")
    places, types = places[order], types[order]
    known: Numbers = numpy.append(types, untyped)
    arguments = [relations.rows * width + column for column in (relations.heads, relations.tails)]
    spans: list[tuple[Numbers, Numbers]] = [
        (numpy.searchsorted(places, place), numpy.searchsorted(places, place, side="right")) for place in arguments
    ]
    head_type, tail_type = (numpy.where(end > begin, known[begin], untyped) for begin, end in spans)
    several = numpy.flatnonzero(numpy.any([end - begin > 1 for begin, end in spans], axis=0))
    for index in several.tolist():
        of_head, of_tail = (types[begin[index] : end[index]].tolist() or [untyped] for begin, end in spans)
        pairs = list(product(of_head, of_tail))
        legal = fitting[int(relations.types[index])]
        head_type[index], tail_type[index] = next((pair for pair in pairs if pair in legal), pairs[0])
    codes = untyped + 1
    return replace(relations, heads=relations.heads * codes + head_type, tails=relations.tails * codes + tail_type)


def _fitting(types: Types) -> list[set[tuple[int, int]]]:
    """Return for every relation type the numbers of its legal pairs of entity types."""
    number = types.entities.index
    return [{(number(head), number(tail)) for head, tail in pairs} for _, pairs in types.signatures]


# partial


def partial_entities(pair: Pair, texts: list[str], types: Types) -> Numbers:
    """Count entities under ``partial``; the type of an entity does not matter."""
    return _partial(pair, pair.heads, entities_of(pair, texts, types), _entity_credit)


def partial_relations(pair: Pair, texts: list[str], types: Types) -> Numbers:
    """Count relations under ``partial``: the type must be right, and head and tail must overlap with gold."""
    return _partial(pair, numpy.arange(len(pair.heads)), relations_of(pair, texts, types), _relation_credit)


def _partial(
    pair: Pair, whole: Numbers, decode: Callable[[Numbers], list[_Item]], credit: Callable[[_Item, _Item], float]
) -> Numbers:
    """Count as SemEval-2013 task 9 does under "partial": a point for an equal text, half a point for an overlap.

    Predictions and gold are paired one to one, the most similar first. Equal ones are found for all examples at once;
    what remains on both sides of an example is paired by itself.

    Args:
        pair: Both sides' items.
        whole: Number of every item such that equal numbers earn a whole point.
        decode: Items to what ``credit`` compares.
        credit: Similarity of two items, 1 for a whole point, 0 for none.
    """
    predicted, gold = pair.predicted, pair.gold
    width = int(whole.max(initial=0)) + 1
    predicted_keys, gold_keys = (side.rows * width + whole[side.items] for side in (predicted, gold))
    # An example in which a side holds a text twice, with two types, is paired as a whole.
    simple: Numbers = numpy.ones(pair.size, dtype=bool)
    for keys in (predicted_keys, gold_keys):
        ordered = numpy.sort(keys)
        simple[ordered[1:][ordered[1:] == ordered[:-1]] // width] = False
    equal_predicted = contained(predicted_keys, numpy.sort(gold_keys)) & simple[predicted.rows]
    equal_gold = contained(gold_keys, numpy.sort(predicted_keys)) & simple[gold.rows]
    right: Numbers = per_row(pair.size, predicted.rows[equal_predicted]).astype(float)
    left_predicted, left_gold = predicted.select(~equal_predicted), gold.select(~equal_gold)
    both = (per_row(pair.size, left_predicted.rows) > 0) & (per_row(pair.size, left_gold.rows) > 0)
    left_predicted, left_gold = (side.select(both[side.rows]) for side in (left_predicted, left_gold))
    for (row, row_predicted), (_, row_gold) in zip(
        by_row(left_predicted.rows, decode(left_predicted.items)),
        by_row(left_gold.rows, decode(left_gold.items)),
        strict=True,
    ):
        right[row] += _points(row_predicted, row_gold, credit)
    fp, fn = (per_row(pair.size, side.rows) - right for side in (predicted, gold))
    return numpy.stack([right, fp, fn], axis=1)


def _points(predicted: list[_Item], gold: list[_Item], credit: Callable[[_Item, _Item], float]) -> float:
    candidates = [(-value, one, other) for one in predicted for other in gold if (value := credit(one, other))]
    points = 0.0
    taken: set[_Item] = set()
    found: set[_Item] = set()
    for negative, one, other in sorted(candidates):
        if one not in taken and other not in found:
            taken.add(one)
            found.add(other)
            points += 1.0 if negative == -1.0 else 0.5
    return points


def _entity_credit(predicted: EntityItem, gold: EntityItem) -> float:
    return similarity(predicted[1], gold[1])


def _relation_credit(predicted: RelationItem, gold: RelationItem) -> float:
    if predicted[1] != gold[1]:
        return 0.0
    head = similarity(predicted[0], gold[0])
    tail = similarity(predicted[2], gold[2]) if head else 0.0
    return (head + tail) / 2 if tail else 0.0


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' words; 1 only for equal texts."""
    if one == other:
        return 1.0
    mine, theirs = _words(one), _words(other)
    if mine.isdisjoint(theirs):
        return 0.0
    return min(len(mine & theirs) / len(mine | theirs), 0.99)


@lru_cache(maxsize=1 << 16)
def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text))


# any mention


def any_mention(examples: Examples, aliases: Aliases) -> tuple[Pair, Pair]:
    """Return entities and relations in which every name stands for its concept.

    A name that is a surface form of a concept stands for the concept's canonical name, the one that gold relations
    use. Where a name may stand for several (a composite mention, an abbreviation), it stands for all that are gold,
    or else for the first. Both sides are read so; a concept that is named twice counts once.
    """
    standing: dict[tuple[int, int], list[int]] = {}
    for row, form, name in zip(aliases.rows.tolist(), aliases.forms.tolist(), aliases.names.tolist(), strict=True):
        names = standing.setdefault((row, form), [])
        if name not in names:
            names.insert(0 if form == name else len(names), name)
    width = max(1, len(examples.texts.normalised))
    # a canonical name that stands for nothing else changes nothing
    moved = aliases.forms != aliases.names
    keys = distinct(aliases.rows[moved] * width + aliases.forms[moved])
    sides = (examples.predicted, examples.gold)
    affected: Numbers = numpy.zeros(len(examples), dtype=bool)
    for side in sides:
        for rows, column in (
            (side.entities.rows, side.entities.texts),
            (side.relations.rows, side.relations.heads),
            (side.relations.rows, side.relations.tails),
        ):
            affected[rows[contained(rows * width + column, keys)]] = True

    def entity_names(row: int, item: tuple[int, ...]) -> list[tuple[int, ...]]:
        kind, text = item
        return [(kind, name) for name in standing.get((row, text), [text])]

    def relation_names(row: int, item: tuple[int, ...]) -> list[tuple[int, ...]]:
        head, kind, tail = item
        heads, tails = (standing.get((row, text), [text]) for text in (head, tail))
        return [(one, kind, other) for one in heads for other in tails]

    entities = _resolved([(s.entities.rows, s.entities.types, s.entities.texts) for s in sides], affected, entity_names)
    relations = _resolved(
        [(s.relations.rows, s.relations.heads, s.relations.types, s.relations.tails) for s in sides],
        affected,
        relation_names,
    )
    size = len(examples)
    return (
        pair_entities(size, *(Entities(*columns) for columns in entities)),
        pair_relations(size, *(Relations(*columns) for columns in relations)),
    )


def _resolved(
    sides: list[tuple[Numbers, ...]],
    affected: Numbers,
    names: Callable[[int, tuple[int, ...]], list[tuple[int, ...]]],
) -> Iterator[list[Numbers]]:
    """Yield the columns (rows, …) of both sides, predicted and gold, with names resolved in the affected examples."""
    kept, listed = [], []
    for rows, *columns in sides:
        mask = affected[rows]
        kept.append([column[~mask] for column in (rows, *columns)])
        items: dict[int, set[tuple[int, ...]]] = {}
        for row, *item in zip(*(column[mask].tolist() for column in (rows, *columns)), strict=True):
            items.setdefault(row, set()).add(tuple(item))
        listed.append(items)
    predicted, gold = listed
    gold = {row: _stand_for(row, items, items, names) for row, items in gold.items()}
    predicted = {row: _stand_for(row, items, gold.get(row, set()), names) for row, items in predicted.items()}
    for columns, resolved in zip(kept, (predicted, gold), strict=True):
        added = numpy.array([(row, *item) for row, items in resolved.items() for item in items], dtype=numpy.int64)
        yield [
            numpy.concatenate([column, more])
            for column, more in zip(columns, added.reshape(-1, len(columns)).T, strict=True)
        ]


def _stand_for(
    row: int,
    items: set[tuple[int, ...]],
    gold: set[tuple[int, ...]],
    names: Callable[[int, tuple[int, ...]], list[tuple[int, ...]]],
) -> set[tuple[int, ...]]:
    found: set[tuple[int, ...]] = set()
    for item in items:
        candidates = names(row, item)
        found.update([one for one in candidates if one in gold] or candidates[:1])
    return found


# Items as texts


def entities_of(pair: Pair, texts: list[str], types: Types) -> Callable[[Numbers], list[EntityItem]]:
    """Return a function from item numbers to (type, text)."""

    def decode(items: Numbers) -> list[EntityItem]:
        kinds, heads = pair.kinds[items].tolist(), pair.heads[items].tolist()
        return [(types.entities[kind], texts[head]) for kind, head in zip(kinds, heads, strict=True)]

    return decode


def relations_of(pair: Pair, texts: list[str], types: Types) -> Callable[[Numbers], list[RelationItem]]:
    """Return a function from item numbers to (head, type, tail); for relations whose arguments carry no types."""

    def decode(items: Numbers) -> list[RelationItem]:
        columns = (column[items].tolist() for column in (pair.heads, pair.kinds, pair.tails))
        return [(texts[head], types.relations[kind], texts[tail]) for head, kind, tail in zip(*columns, strict=True)]

    return decode
