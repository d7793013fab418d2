"""What went wrong: every false positive and every false negative under ``exact`` by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from odin_slm.tasks.extraction.metrics.items import (
    EntityItem,
    Examples,
    Items,
    Numbers,
    Pair,
    RelationItem,
    by_row,
    contained,
    distinct,
    per_row,
    read_examples,
)
from odin_slm.tasks.extraction.metrics.modes import (
    entities_of,
    exact_entities,
    exact_relations,
    relations_of,
    similarity,
)
from odin_slm.tasks.extraction.schema import MEDICAL, Types

ERRORS = {
    "hallucinated": "entity that is not in the text",
    "boundary": "entity that shares words with a missed one of its type",
    "wrong_type": "entity with the right text and another type",
    "spurious_entity": "entity that is in the text but not gold",
    "missed": "gold entity that was not predicted",
    "dangling_argument": "relation whose head or tail is no listed entity",
    "reversed_direction": "relation with head and tail exchanged",
    "wrong_relation_type": "relation with the right arguments and another type",
    "spurious_relation": "relation between listed entities that is not gold",
    "missed_relation": "gold relation that was not predicted",
}
"""Every false positive and every false negative under ``exact`` is of one of these kinds."""

_EXAMPLES_PER_ERROR = 5

Item = EntityItem | RelationItem


class Error(NamedTuple):
    """One error.

    Attributes:
        kind: A key of :data:`ERRORS`.
        predicted: The wrong item; None where one was missed.
        gold: The gold item that it is compared with, or that was missed; None where there is none.
    """

    kind: str
    predicted: Item | None
    gold: Item | None


def errors_in(row: Mapping[str, Any], types: Types = MEDICAL) -> list[Error]:
    """Return the errors of one row of a predictions file."""
    examples = read_examples([row], types)
    entities, relations = exact_entities(examples), exact_relations(examples)
    found = [error for _, errors in _entity_errors(examples, entities) for error in errors]
    found += [error for _, errors in _relation_errors(examples, relations) for error in errors]
    texts = examples.texts.normalised
    found += [
        Error("missed", None, item) for item in sorted(entities_of(entities, texts, types)(_lone(entities).items))
    ]
    lone = sorted(relations_of(relations, texts, types)(_lone(relations).items))
    return [*found, *(Error("missed_relation", None, item) for item in lone)]


def count_errors(examples: Examples, entities: Pair, relations: Pair) -> dict[str, dict[str, Any]]:
    """Return by kind of error ``count`` and ``examples``: ids of the first examples in which it occurs.

    Ids and no texts, because results are published and the texts of some corpora may not be.
    """
    counts: Counter[str] = Counter()
    rows: dict[str, list[int]] = {name: [] for name in ERRORS}
    for stream in (_entity_errors(examples, entities), _relation_errors(examples, relations)):
        for row, errors in stream:
            for kind, _, _ in errors:
                counts[kind] += 1
                known = rows[kind]
                if len(known) < _EXAMPLES_PER_ERROR and row not in known[-1:]:
                    known.append(row)
    for kind, pair in (("missed", entities), ("missed_relation", relations)):
        lone = _lone(pair).rows
        counts[kind] += len(lone)
        rows[kind] = sorted(rows[kind] + distinct(lone)[:_EXAMPLES_PER_ERROR].tolist())[:_EXAMPLES_PER_ERROR]
    return {name: {"count": counts[name], "examples": [examples.ids[row] for row in rows[name]]} for name in ERRORS}


def explain_entities(wrong: Collection[tuple[EntityItem, bool]], missed: Collection[EntityItem]) -> Iterator[Error]:
    """Name every wrong entity, each once; a boundary or type error explains the gold entity that it missed, too.

    Args:
        wrong: Predicted entities that are not gold, and whether each is not in the text.
        missed: Gold entities that were not predicted.
    """
    left = sorted(missed)
    for item, foreign in sorted(wrong):
        kind, surface = item
        same_text = overlapping = None
        for gold in left:
            if gold[1] == surface:
                same_text = gold
                break
            if overlapping is None and gold[0] == kind and similarity(gold[1], surface):
                overlapping = gold
        if same_text:
            left.remove(same_text)
            yield Error("wrong_type", item, same_text)
        elif foreign:
            yield Error("hallucinated", item, None)
        elif overlapping:
            left.remove(overlapping)
            yield Error("boundary", item, overlapping)
        else:
            yield Error("spurious_entity", item, None)
    for item in left:
        yield Error("missed", None, item)


def explain_relations(
    wrong: Collection[tuple[RelationItem, bool]], missed: Collection[RelationItem]
) -> Iterator[Error]:
    """Name every wrong relation, each once; a wrong type or direction explains the gold relation that it missed.

    Args:
        wrong: Predicted relations that are not gold, and whether an argument of each is no listed entity.
        missed: Gold relations that were not predicted.
    """
    left = sorted(missed)
    for item, dangling in sorted(wrong):
        head, kind, tail = item
        turned = (tail, kind, head)
        if dangling:
            yield Error("dangling_argument", item, None)
        elif turned in left:
            left.remove(turned)
            yield Error("reversed_direction", item, turned)
        elif retyped := [gold for gold in left if gold[0] == head and gold[2] == tail][:1]:
            left.remove(retyped[0])
            yield Error("wrong_relation_type", item, retyped[0])
        else:
            yield Error("spurious_relation", item, None)
    for item in left:
        yield Error("missed_relation", None, item)


def _entity_errors(examples: Examples, pair: Pair) -> Iterator[tuple[int, Iterator[Error]]]:
    """Yield (example, its errors) for every example with a wrong entity."""
    width = max(1, len(examples.texts.normalised))
    listed = examples.predicted.entities
    foreign = distinct((listed.rows * width + listed.texts)[examples.foreign])

    def flag(rows: Numbers, items: Numbers) -> Numbers:
        return contained(rows * width + pair.heads[items], foreign)

    return _errors(pair, entities_of(pair, examples.texts.normalised, examples.types), flag, explain_entities)


def _relation_errors(examples: Examples, pair: Pair) -> Iterator[tuple[int, Iterator[Error]]]:
    """Yield (example, its errors) for every example with a wrong relation."""
    width = max(1, len(examples.texts.normalised))
    entities = examples.predicted.entities
    listed = distinct(entities.rows * width + entities.texts)

    def flag(rows: Numbers, items: Numbers) -> Numbers:
        head, tail = (contained(rows * width + end[items], listed) for end in (pair.heads, pair.tails))
        dangling: Numbers = ~(head & tail)
        return dangling

    return _errors(pair, relations_of(pair, examples.texts.normalised, examples.types), flag, explain_relations)


def _errors(
    pair: Pair,
    decode: Callable[[Numbers], list[Any]],
    flag: Callable[[Numbers, Numbers], Numbers],
    explain: Callable[[list[Any], list[Any]], Iterator[Error]],
) -> Iterator[tuple[int, Iterator[Error]]]:
    wrong = pair.predicted.select(~contained(pair.predicted.keys, pair.gold.keys))
    missed = pair.gold.select(~contained(pair.gold.keys, pair.predicted.keys))
    missed = missed.select((per_row(pair.size, wrong.rows) > 0)[missed.rows])
    left = dict(by_row(missed.rows, decode(missed.items)))
    flagged = zip(decode(wrong.items), flag(wrong.rows, wrong.items).tolist(), strict=True)
    for row, mine in by_row(wrong.rows, flagged):
        yield row, explain(mine, left.get(row, []))


def _lone(pair: Pair) -> Items:
    """Return the missed items of examples in which nothing predicted is wrong."""
    wrong = pair.predicted.rows[~contained(pair.predicted.keys, pair.gold.keys)]
    missed = pair.gold.select(~contained(pair.gold.keys, pair.predicted.keys))
    return missed.select((per_row(pair.size, wrong) == 0)[missed.rows])
