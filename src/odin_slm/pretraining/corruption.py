"""Outputs in which something has gone wrong: an item that comes twice, a name that is none, one that stutters."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from odin_slm.pretraining.name_generator import random_span
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, item_places, render
from odin_slm.tasks.extraction.schema import Schema

_Item = TypeVar("_Item")
_WORD = re.compile(r"\w+")


def with_slips(
    extraction: Extraction, schema: Schema, text: str, rng: random.Random, *, circling: bool = False
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Render an extraction with things in it that have gone wrong.

    Args:
        extraction: What is right.
        schema: Its types and relations, from which the wrong items take theirs.
        text: The text, of which wrong entities are made.
        rng: Source of the draws.
        circling: Whether up to three items are repeated in turn, more often, and relations have ends that are cut off.

    Returns:
        An output text that has every right item, in order, and (begin, end) of what does not belong there, in order.
    """
    entities, false_entities = _mixed_in(
        list(extraction.entities),
        lambda: _wrong_entity(schema, text, rng),
        rng.choice((0, 1, 1, 2)) if schema.relations else rng.choice((1, 1, 2)),
        rng,
        circling=circling,
    )
    listed = [entity.text for entity in entities]

    def wrong_relation() -> RelationTriple | None:
        if not listed or not schema.relations:
            return None
        wrong = RelationTriple(rng.choice(listed), rng.choice(schema.relations), rng.choice(listed))
        if circling and rng.random() < 0.4:
            return replace(wrong, tail=_cut_off(wrong.tail, rng))
        return wrong

    relations, false_relations = _mixed_in(
        list(extraction.relations),
        wrong_relation,
        rng.choice((0, 1, 1, 2)) if schema.relations else 0,
        rng,
        circling=circling,
    )
    completion = render(Extraction(tuple(entities), tuple(relations)))
    given: list[tuple[int, int]] = []
    names: list[tuple[int, int]] = []
    for line, ((begin, end), named) in enumerate(item_places(completion)):
        number, false = (line, false_entities) if line < len(entities) else (line - len(entities), false_relations)
        if number in false:
            given.append((begin - (number > 0), end))  # what opens a list is right
        else:
            names += named
    for begin, end in sorted(rng.sample(names, min(len(names), rng.choice((0, 1, 1, 2)))), reverse=True):
        name, first, last = _stuttering(completion[begin:end], rng, _MANY_TIMES if circling else _TIMES)
        completion = completion[:begin] + name + completion[end:]
        place, length = begin + first, last - first
        given = [(b + length * (b >= place), e + length * (e > place)) for b, e in given] + [(place, place + length)]
    return completion, tuple(sorted(given))


def _mixed_in(
    right: list[_Item], wrong: Callable[[], _Item | None], slips: int, rng: random.Random, *, circling: bool
) -> tuple[list[_Item], set[int]]:
    """Put so many slips between the items of a list; return it and the places of those that are not right."""
    at = Counter(rng.randint(0, len(right)) for _ in range(slips))
    items: list[_Item] = []
    false: set[int] = set()
    for place in range(len(right) + 1):
        for _ in range(at[place]):
            written = items[-1:] if rng.random() < 0.6 else items
            item = rng.choice(written) if written and rng.random() < 0.65 else wrong()
            if item is None or item in right[place:]:  # to come yet: it would be listed twice, the second time as right
                continue
            slip = [item]
            if (
                circling
                and written
                and (last := items[-rng.choice((1, 1, 2, 3)) :])
                and not _any_in(last, right[place:])
            ):
                slip = last
            slip = slip * rng.choice((1, 1, 2, 3, 6) if circling else (1, 1, 2, 3, 4))
            false.update(range(len(items), len(items) + len(slip)))
            items += slip
        items += right[place : place + 1]
    return items, false


def _any_in(items: Sequence[_Item], others: Sequence[_Item]) -> bool:
    return any(item in others for item in items)


def _cut_off(name: str, rng: random.Random) -> str:
    """Return a name without its last words, or a single word without its last letters."""
    words = name.split(" ")
    if len(words) > 1:
        return " ".join(words[: rng.randrange(1, len(words))])
    return name[: max(1, len(name) - rng.randint(1, 4))]


def _wrong_entity(schema: Schema, text: str, rng: random.Random) -> Entity | None:
    """Return some words of a text as an entity; one in three stutters."""
    span = random_span([match.span() for match in _WORD.finditer(text)], rng, 4)
    if not span:
        return None
    name = text[span[0][0] : span[-1][1]]
    if rng.random() < 0.3:
        name, _, _ = _stuttering(name, rng, _TIMES)
    return Entity(rng.choice(schema.entities), name)


_TIMES = (1, 1, 2, 3, 5, 8)
_MANY_TIMES = (1, 1, 2, 3, 5, 8, 14)


def _stuttering(name: str, rng: random.Random, often: Sequence[int]) -> tuple[str, int, int]:
    """Repeat a word of a name, or a piece of a word; return begin and end of the repetition too."""
    words = [match.span() for match in re.finditer(r"\S+", name)]
    begin, end = rng.choice(words)
    times = rng.choice(often)
    if rng.random() < 0.5 or end - begin < 4:
        return name[:end] + f" {name[begin:end]}" * times + name[end:], end, end + (end - begin + 1) * times
    first = rng.randint(begin, end - 2)
    last = min(end, first + rng.randint(2, 4))
    return name[:last] + name[first:last] * times + name[last:], last, last + (last - first) * times
