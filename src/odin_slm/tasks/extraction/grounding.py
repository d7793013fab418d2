"""Outputs put back on their text: where every entity stands, and what several windows of one text say together.

Offsets count Unicode code points, as Python's strings do; ``text[begin:end]`` is the mention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from odin_slm.core.folding import fold, folded, folded_name
from odin_slm.core.sentences import sentence_spans
from odin_slm.tasks.extraction.abbreviations import completed
from odin_slm.tasks.extraction.calibration import confidence
from odin_slm.tasks.extraction.format import Listed, RelationTriple, locate, parse
from odin_slm.tasks.extraction.schema import MEDICAL, Types

_LONG_WORD = re.compile(r"[^\W\d_]{4}")


@dataclass(frozen=True, slots=True, order=True)
class Occurrence:
    """One place of a text: ``text`` is what stands there, which may be written otherwise than the model did."""

    begin: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class GroundedEntity:
    """An entity of an output.

    Attributes:
        type: Entity type.
        text: The surface as the model wrote it.
        occurrences: Every place where it stands, in text order; none where the model wrote what the text does not say.
        confidence: Probability that the entity is right, or None where it was not estimated.
    """

    type: str
    text: str
    occurrences: tuple[Occurrence, ...]
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """Head or tail of a relation; the type is None where the output lists no entity of this surface."""

    text: str
    type: str | None
    occurrences: tuple[Occurrence, ...]


@dataclass(frozen=True, slots=True)
class GroundedRelation:
    """A relation of an output; its arguments are located in the window that it was read from."""

    type: str
    head: Argument
    tail: Argument
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Grounded:
    """What was read from a text.

    Attributes:
        entities: Entities, in the order of the output; merged ones in text order.
        relations: Relations.
        malformed: Number of the output's lines that follow no rule of the format.
    """

    entities: tuple[GroundedEntity, ...] = ()
    relations: tuple[GroundedRelation, ...] = ()
    malformed: int = 0

    @property
    def ungrounded(self) -> bool:
        """Whether an entity does not stand in the text."""
        return any(not entity.occurrences for entity in self.entities)

    def labels(self) -> dict[str, list[str]]:
        """Return the types of entities and of relations."""
        return {"entities": [e.type for e in self.entities], "relations": [r.type for r in self.relations]}

    def to_dict(self) -> dict[str, Any]:
        """Return what the service answers."""
        found = asdict(self)
        del found["malformed"]
        return found


def ground(
    text: str,
    output: str,
    begin: int = 0,
    end: int | None = None,
    lines: Sequence[float | None] = (),
    calibrator: Mapping[str, Any] | None = None,
    types: Types = MEDICAL,
    abbreviations: bool = False,
) -> Grounded:
    """Read an output and find its entities in the text.

    Args:
        text: The whole text; offsets refer to it.
        output: What the model wrote.
        begin: First character of the window that the model has read.
        end: Offset after its last character; None for the end of the text.
        lines: Log-probability of every line of the output; without it nothing has a confidence.
        calibrator: What turns it into the chance to be right; see
            :func:`odin_slm.tasks.extraction.calibration.confidence`.
        types: The types that the output may name.
        abbreviations: Whether names that the whole text abbreviates get their other form, wherever that stands.

    Returns:
        Distinct entities (type and surface, compared as scores compare them) and relations. What the output lists in
        several spellings ("Flu", "flu") bears the first, stands where any of them does, and is as likely as the best.
    """
    window = text[begin:end]
    parsed = parse(output, types)
    listed = Listed.of(parsed, lines)
    listed = completed(text, listed) if abbreviations else listed

    def chance(kind: str, found: float | None) -> float | None:
        return None if found is None else round(confidence(calibrator, kind, found), 4)

    def places(surface: str) -> tuple[Occurrence, ...]:
        here = tuple(Occurrence(begin + b, begin + e, window[b:e]) for b, e in occurrences(window, surface))
        elsewhere = abbreviations and not here
        return tuple(Occurrence(b, e, text[b:e]) for b, e in occurrences(text, surface)) if elsewhere else here

    entities: dict[tuple[str, str], list[GroundedEntity]] = {}
    for entity, found in listed.entities:
        one = GroundedEntity(entity.type, entity.text, places(entity.text), chance("entity", found))
        entities.setdefault((entity.type, fold(entity.text)), []).append(one)
    kinds: dict[str, list[str]] = {}
    for kind, surface in entities:
        kinds.setdefault(surface, []).append(kind)

    def relation(triple: RelationTriple, found: float | None) -> GroundedRelation:
        head, tail = _argument_types(triple, kinds, types)
        ends = Argument(triple.head, head, places(triple.head)), Argument(triple.tail, tail, places(triple.tail))
        return GroundedRelation(triple.type, *ends, chance("relation", found))

    relations = [relation(triple, found) for triple, found in listed.relations]
    distinct = tuple(
        GroundedEntity(kind, same[0].text, tuple(sorted(_places(same))), _best(same))
        for (kind, _), same in entities.items()
    )
    return Grounded(distinct, _distinct(relations), len(parsed.malformed))


def _argument_types(
    triple: RelationTriple, kinds: Mapping[str, Sequence[str]], types: Types
) -> tuple[str | None, str | None]:
    """Return the types of head and tail; a name that is listed under several has one that the relation may have."""
    heads, tails = (kinds.get(fold(surface), (None,)) for surface in (triple.head, triple.tail))
    pairs = list(product(heads, tails))
    return next((pair for pair in pairs if pair in types.legal[triple.type]), pairs[0])


def merge(text: str, parts: Sequence[Grounded]) -> Grounded:
    """Join what was read from the windows of one text.

    An entity that several windows list is one entity. It stands wherever its surface occurs in the whole text, as a
    name rarely changes its meaning within a document; where two types claim one surface, each keeps the places of the
    windows that say so.

    Args:
        text: The whole text.
        parts: What :func:`ground` found in each window.
    """
    if len(parts) == 1:
        return parts[0]
    found: dict[tuple[str, str], list[GroundedEntity]] = {}
    for entity in (entity for part in parts for entity in part.entities):
        found.setdefault((entity.type, fold(entity.text)), []).append(entity)
    claims: dict[str, set[str]] = {}
    for kind, surface in found:
        claims.setdefault(surface, set()).add(kind)
    entities = []
    for (kind, surface), same in found.items():
        places = _places(same)
        if len(claims[surface]) == 1:
            surfaces = dict.fromkeys(entity.text for entity in same)
            places |= {Occurrence(b, e, text[b:e]) for name in surfaces for b, e in occurrences(text, name)}
        entities.append(GroundedEntity(kind, same[0].text, tuple(sorted(places)), _best(same)))
    entities.sort(key=lambda entity: (entity.occurrences[:1] or (Occurrence(len(text), 0, ""),), entity.type))
    relations = _distinct(relation for part in parts for relation in part.relations)
    return Grounded(tuple(entities), relations, sum(part.malformed for part in parts))


def occurrences(text: str, surface: str) -> list[tuple[int, int]]:
    """Return the (begin, end) of a surface, and of it with the first letter in the other case ("Cough", "cough").

    Symbols and abbreviations are other names in other case ("As" and "as", "mRNA"): the first word must be lower case
    after its first letter, and some word must have more than three letters. Shorter names in lower case ("flu") are
    also found at the begin of a sentence ("Flu").
    """
    spans = set(locate(text, surface))
    first = surface.split()[:1]
    other = surface[:1].swapcase() + surface[1:]
    if other == surface or not first or first[0][1:] != first[0][1:].lower():
        return sorted(spans)
    pattern = rf"(?<!\w){re.escape(folded_name(other, case=False))}(?!\w)"
    found = [(begin, end) for begin, end, _ in folded(text, case=False).find(pattern)]
    if found and not _LONG_WORD.search(surface):
        begins = {begin for begin, _ in sentence_spans(text)} if surface[:1].islower() else set()
        found = [span for span in found if span[0] in begins]
    return sorted(spans.union(found))


def _distinct(relations: Iterable[GroundedRelation]) -> tuple[GroundedRelation, ...]:
    triples: dict[tuple[str, str, str], list[GroundedRelation]] = {}
    for relation in relations:
        key = (fold(relation.head.text), relation.type, fold(relation.tail.text))
        triples.setdefault(key, []).append(relation)
    return tuple(
        GroundedRelation(same[0].type, _join([r.head for r in same]), _join([r.tail for r in same]), _best(same))
        for same in triples.values()
    )


def _join(same: Sequence[Argument]) -> Argument:
    kind = next((argument.type for argument in same if argument.type), None)
    return Argument(same[0].text, kind, tuple(sorted(_places(same))))


def _places(same: Sequence[GroundedEntity] | Sequence[Argument]) -> set[Occurrence]:
    return {place for item in same for place in item.occurrences}


def _best(same: Sequence[GroundedEntity] | Sequence[GroundedRelation]) -> float | None:
    return max((item.confidence for item in same if item.confidence is not None), default=None)
