"""Records with other names of the same types: who has read a name often knows it by heart, and not by its place.

Dai and Adel (2020, "An Analysis of Simple Data Augmentation for Named Entity Recognition") call it mention replacement.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from odin_slm.core.folding import fold
from odin_slm.core.record import Record
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, parse, render
from odin_slm.tasks.extraction.grounding import occurrences
from odin_slm.tasks.extraction.schema import MEDICAL, Types

Span = tuple[int, int]


def names_of(records: Iterable[Record], types: Types = MEDICAL) -> dict[str, list[str]]:
    """Return the names of each type that records list, each once, and in small letters where a record has it so."""
    found: dict[str, dict[str, str]] = {name: {} for name in types.entities}
    for record in records:
        for entity in parse(record["output"], types).extraction.entities:
            known = found[entity.type].setdefault(fold(entity.text), entity.text)
            if known[:1].isupper() and entity.text[:1].islower():
                found[entity.type][fold(entity.text)] = entity.text
    return {name: list(texts.values()) for name, texts in found.items()}


def renamed(
    record: Record, names: Mapping[str, Sequence[str]], share: float, rng: random.Random, types: Types = MEDICAL
) -> Record:
    """Return a record with other names, in its text and in its output.

    A name stays where it overlaps another one or lies within a word, and where the other name stands in the text
    already. All its occurrences become the same one, with a capital where the old one has one before small letters.

    Args:
        record: A record whose output is a list.
        names: Type -> names to draw from.
        share: Chance of each name to become another one.
        rng: Source of the draws.
        types: The experiment's types.

    Returns:
        The record itself where nothing was drawn, or where a name would be found in more or fewer places than before.
    """
    text, listed = record["input"], parse(record["output"], types).extraction
    places = {entity: occurrences(text, entity.text) for entity in listed.entities}
    new: dict[str, str] = {}
    for entity in _replaceable(text, places):
        if rng.random() >= share or not names.get(entity.type):
            continue
        drawn = _capitalised_as(entity.text, rng.choice(names[entity.type]))
        if fold(drawn) not in fold(text) and fold(drawn) not in map(fold, new.values()):
            new[entity.text] = drawn
    if not new:
        return record
    spans = sorted((*span, entity.text) for entity, found in places.items() for span in found if entity.text in new)
    pieces, last = [], 0
    for begin, end, name in spans:
        pieces += [text[last:begin], _as_written(text[begin:end], name, new[name])]
        last = end
    changed = "".join([*pieces, text[last:]])
    entities = tuple(Entity(entity.type, new.get(entity.text, entity.text)) for entity in listed.entities)
    relations = tuple(
        RelationTriple(new.get(r.head, r.head), r.type, new.get(r.tail, r.tail)) for r in listed.relations
    )
    for before, after in zip(listed.entities, entities, strict=True):
        if after.text not in changed or len(occurrences(changed, after.text)) != len(places[before]):
            return record
    return Record({**record, "input": changed, "output": render(Extraction(entities, relations))})


def _replaceable(text: str, places: Mapping[Entity, Sequence[Span]]) -> list[Entity]:
    """Return the entities none of whose places overlaps one of another entity or cuts a word."""
    spans = [(span, entity) for entity, found in places.items() for span in found]
    return [
        entity
        for entity, found in places.items()
        if not any(
            begin < other_end and other_begin < end
            for begin, end in found
            for (other_begin, other_end), other in spans
            if other != entity
        )
        and all(_is_whole(text, begin, end) for begin, end in found)
    ]


def _is_whole(text: str, begin: int, end: int) -> bool:
    return not (text[max(begin - 1, 0) : begin].isalnum() or text[end : end + 1].isalnum())


def _capitalised_as(old: str, new: str) -> str:
    """Return a name with a capital where the old one begins with one before small letters, as sentences do."""
    return new[:1].upper() + new[1:] if old[:1].isupper() and old[1:2].islower() else new


def _as_written(place: str, old: str, new: str) -> str:
    """Return a name as it stands where the old one stood, whose first letter may have been in the other case."""
    if place[:1] == old[:1] or new[1:2] != new[1:2].lower():
        return new
    return (new[:1].upper() if place[:1].isupper() else new[:1].lower()) + new[1:]
