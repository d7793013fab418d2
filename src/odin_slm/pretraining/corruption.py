"""Corruption of outputs: repeated items, wrong items, names that are cut off or that stutter.

The errors are those that a small model makes itself. It learns to recover from them, but not to make them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from odin_slm.pretraining.name_generator import random_span, word_spans
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, item_places, render
from odin_slm.tasks.extraction.schema import Schema

_Item = TypeVar("_Item")


def corrupt(
    extraction: Extraction, schema: Schema, text: str, rng: random.Random, *, looping: bool = False
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Render an extraction with errors inserted.

    Args:
        extraction: The correct extraction.
        schema: Its schema, from which wrong items take their types and relations.
        text: The text, from whose words wrong entities are made.
        rng: Source of the draws.
        looping: Whether to imitate repetition loops: up to three items repeat in turn, more often, and tails of
            relations are cut off.

    Returns:
        An output with every correct item, in order, and (begin, end) of the errors, in order.
    """
    entities, false_entities = _mixed_in(
        list(extraction.entities),
        lambda: _wrong_entity(schema, text, rng),
        rng.choice((0, 1, 1, 2)) if schema.relations else rng.choice((1, 1, 2)),
        rng,
        looping=looping,
    )
    listed = [entity.text for entity in entities]

    def wrong_relation() -> RelationTriple | None:
        if not listed or not schema.relations:
            return None
        wrong = RelationTriple(rng.choice(listed), rng.choice(schema.relations), rng.choice(listed))
        if looping and rng.random() < 0.4:
            return replace(wrong, tail=_cut_off(wrong.tail, rng))
        return wrong

    relations, false_relations = _mixed_in(
        list(extraction.relations),
        wrong_relation,
        rng.choice((0, 1, 1, 2)) if schema.relations else 0,
        rng,
        looping=looping,
    )
    completion = render(Extraction(tuple(entities), tuple(relations)))
    given: list[tuple[int, int]] = []
    names: list[tuple[int, int]] = []
    for line, ((begin, end), named) in enumerate(item_places(completion)):
        number, false = (line, false_entities) if line < len(entities) else (line - len(entities), false_relations)
        if number in false:
            given.append((begin - (number > 0), end))  # the line break before a first item belongs to the header
        else:
            names += named
    for begin, end in sorted(rng.sample(names, min(len(names), rng.choice((0, 1, 1, 2)))), reverse=True):
        name, first, last = _stuttering(completion[begin:end], rng, _MANY_TIMES if looping else _TIMES)
        completion = completion[:begin] + name + completion[end:]
        place, length = begin + first, last - first
        given = [(b + length * (b >= place), e + length * (e > place)) for b, e in given] + [(place, place + length)]
    return completion, tuple(sorted(given))


def _mixed_in(
    correct: list[_Item], wrong: Callable[[], _Item | None], errors: int, rng: random.Random, *, looping: bool
) -> tuple[list[_Item], set[int]]:
    """Insert errors between the items of a list; return the list and the indices of the wrong items."""
    at = Counter(rng.randint(0, len(correct)) for _ in range(errors))
    items: list[_Item] = []
    false: set[int] = set()
    for place in range(len(correct) + 1):
        for _ in range(at[place]):
            written = items[-1:] if rng.random() < 0.6 else items
            item = rng.choice(written) if written and rng.random() < 0.65 else wrong()
            if item is None or item in correct[place:]:  # it would be listed again later, and learned as correct
                continue
            inserted = [item]
            if (
                looping
                and written
                and (last := items[-rng.choice((1, 1, 2, 3)) :])
                and not any(item in correct[place:] for item in last)
            ):
                inserted = last
            inserted = inserted * rng.choice((1, 1, 2, 3, 6) if looping else (1, 1, 2, 3, 4))
            false.update(range(len(items), len(items) + len(inserted)))
            items += inserted
        items += correct[place : place + 1]
    return items, false


def _cut_off(name: str, rng: random.Random) -> str:
    """Return a name without its last words, or a single word without its last letters."""
    words = name.split(" ")
    if len(words) > 1:
        return " ".join(words[: rng.randrange(1, len(words))])
    return name[: max(1, len(name) - rng.randint(1, 4))]


def _wrong_entity(schema: Schema, text: str, rng: random.Random) -> Entity | None:
    """Return some words of a text as an entity; three in ten stutter."""
    span = random_span(word_spans(text), rng, 4)
    if not span:
        return None
    name = text[span[0][0] : span[-1][1]]
    if rng.random() < 0.3:
        name, _, _ = _stuttering(name, rng, _TIMES)
    return Entity(rng.choice(schema.entities), name)


_TIMES = (1, 1, 2, 3, 5, 8)
_MANY_TIMES = (1, 1, 2, 3, 5, 8, 14)


def _stuttering(name: str, rng: random.Random, counts: Sequence[int]) -> tuple[str, int, int]:
    """Repeat a word of a name, or a part of a word; return the name, and begin and end of the repetition."""
    words = [match.span() for match in re.finditer(r"\S+", name)]
    begin, end = rng.choice(words)
    times = rng.choice(counts)
    if rng.random() < 0.5 or end - begin < 4:
        return name[:end] + f" {name[begin:end]}" * times + name[end:], end, end + (end - begin + 1) * times
    first = rng.randint(begin, end - 2)
    last = min(end, first + rng.randint(2, 4))
    return name[:last] + name[first:last] * times + name[last:], last, last + (last - first) * times
