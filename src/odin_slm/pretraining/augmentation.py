"""The same annotated document with other names in it, or asked for under another schema."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from odin_slm.core.document import Document, Mention
from odin_slm.pretraining.name_generator import invent_name
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple
from odin_slm.tasks.extraction.schema import ENTITY_TYPES, Schema

TYPE_NAMES = "Substance Condition Finding Term Item Agent Effect Name Object Class Entity Topic Label Key".split()
_RELATION_NAMES = "leads_to helps linked_with acts_on follows precedes affects relates_to".split()


def swap_names(document: Document, names: Mapping[str, Sequence[str]], rng: random.Random) -> Document:
    """Replace every surface by another name of its type or by an invented one; equal surfaces change equally."""
    if not _apart(document):
        return document
    invented = rng.random() < 0.5
    new_names: dict[tuple[str, str], str] = {}

    def name(mention: Mention) -> str:
        key = (mention.type, mention.text.casefold())
        if key not in new_names:
            known = names.get(mention.type)
            new_names[key] = rng.choice(known) if known and not invented else invent_name(rng, mention.type)
        return new_names[key]

    return _renamed_mentions(document, name)


def _apart(document: Document) -> bool:
    return all(one.end <= other.begin for one, other in pairwise(document.mentions))


def _renamed_mentions(document: Document, name: Callable[[Mention], str]) -> Document:
    """Put another name in the place of every mention; nested or overlapping spans cannot be changed one by one."""
    if not _apart(document):
        return document
    text, position = "", 0
    renamed: list[Mention] = []
    for mention in document.mentions:
        new = name(mention)
        text += document.text[position : mention.begin]
        renamed.append(replace(mention, begin=len(text), end=len(text) + len(new), text=new))
        text += new
        position = mention.end
    return replace(document, text=text + document.text[position:], mentions=tuple(renamed))


def repeat_names(document: Document, names: Mapping[str, Sequence[str]], rng: random.Random) -> Document:
    """Name the mentions of a document anew, each by one of a few names of its type; its relations are dropped."""
    pools: dict[str, list[str]] = {}
    size = rng.randint(1, 4)

    def name(mention: Mention) -> str:
        if mention.type not in pools:
            known = names.get(mention.type)
            pools[mention.type] = [
                rng.choice(known) if known and rng.random() < 0.5 else invent_name(rng, mention.type)
                for _ in range(size)
            ]
        return rng.choice(pools[mention.type])

    return replace(_renamed_mentions(document, name), relations=())


_GLUE = (
    *[("(", ")"), ("[", "]"), ('"', '"'), ("", "-induced"), ("", "-related"), ("", "-associated"), ("", "/")],
    *[(prefix, "") for prefix in ("anti-", "non-", "post-", "pre-", "pseudo-", "-", "/", "'")],
)
"""What touches a name, before and after it."""


def glue(document: Document, rng: random.Random) -> Document:
    """Put signs or parts of words before or after most of the mentions; the mentions stay what they are."""
    if not _apart(document):
        return document
    text, position = "", 0
    moved: list[Mention] = []
    for mention in document.mentions:
        before, after = rng.choice(_GLUE) if rng.random() < 0.7 else ("", "")
        text += document.text[position : mention.begin] + before
        moved.append(replace(mention, begin=len(text), end=len(text) + len(mention.text)))
        text += mention.text + after
        position = mention.end
    return replace(document, text=text + document.text[position:], mentions=tuple(moved))


def put_enumeration(
    document: Document,
    names: Mapping[str, Sequence[str]],
    rng: random.Random,
    concepts: Collection[str] | None = None,
) -> Document:
    """Put an enumeration of names in the place of a mention; those added relate as the mention's concept does.

    Args:
        document: What to change.
        names: Known names of each type.
        rng: Source of the draws.
        concepts: Those of which a mention is to be one, and then the names are long ones and such as resemble each
            other; None takes any mention, and names as they come.
    """
    mentions = document.mentions
    alone = [
        mention
        for i, mention in enumerate(mentions)
        if len(mention.concepts) == 1 and not any(_overlap(mention, other) for other in mentions if other != mention)
        if concepts is None or mention.concepts[0] in concepts
    ]
    if not alone:
        return document
    chosen = rng.choice(alone)
    taken, added = document.text.casefold(), list[str]()
    for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 5, 6))):
        known = names.get(chosen.type)
        name = rng.choice(known) if known and rng.random() < 0.6 else invent_name(rng, chosen.type)
        if concepts is not None:
            name = _hard_to_list(name, (added or [chosen.text])[-1], known or [chosen.text], rng)
        if name.casefold() not in taken:  # what the text has already may be another concept's
            added.append(name)
            taken += " " + name.casefold()
    if not added:
        return document
    last = rng.choice((" and ", ", and ", ", and ", " or ", ", "))
    text, position = document.text[: chosen.end], chosen.end
    items = []
    for number, name in enumerate(added):
        text += last if number == len(added) - 1 else ", "
        # A concept of its own: that of its surface may be one whose mentions have other names by now.
        items.append(Mention(len(text), len(text) + len(name), name, chosen.type, (f"listed:{name.casefold()}",)))
        text += name
    longer = len(text) - position
    moved = [replace(m, begin=m.begin + longer, end=m.end + longer) if m.begin >= position else m for m in mentions]
    relations = list(document.relations)
    for item in items:
        for relation in document.relations:
            if chosen.concepts[0] == relation.head:
                relations.append(replace(relation, head=item.concepts[0]))
            elif chosen.concepts[0] == relation.tail:
                relations.append(replace(relation, tail=item.concepts[0]))
    return replace(
        document,
        text=text + document.text[position:],
        mentions=tuple(sorted([*moved, *items])),
        relations=tuple(relations),
    )


def _hard_to_list(name: str, before: str, known: Sequence[str], rng: random.Random) -> str:
    """Return a name as long as two, or one that shares a part with the name before it; two times in five as it is."""
    draw = rng.random()
    if draw < 0.2:
        return f"{name}{rng.choice('-/')}{rng.choice(known)}"
    if draw < 0.4:
        return max((name, rng.choice(known), rng.choice(known)), key=len)
    if draw < 0.5:
        return f"{name} {before.split()[-1]}"
    if draw < 0.6:
        return f"{before.split()[0]} {name}" if draw < 0.55 else before[:4] + name[-5:]
    return name


def _overlap(one: Mention, other: Mention) -> bool:
    return one.begin < other.end and other.begin < one.end


def rename(schema: Schema, extraction: Extraction, rng: random.Random) -> tuple[Schema, Extraction]:
    """Give the types and relations other names, the same ones in instruction and output."""
    types = dict(zip(schema.entities, rng.sample(TYPE_NAMES, len(schema.entities)), strict=True))
    relations = dict(zip(schema.relations, rng.sample(_RELATION_NAMES, len(schema.relations)), strict=True))
    return (
        Schema(tuple(types.values()), tuple(relations.values())),
        Extraction(
            tuple(Entity(types[e.type], e.text) for e in extraction.entities),
            tuple(RelationTriple(r.head, relations[r.type], r.tail) for r in extraction.relations),
        ),
    )


def narrow(schema: Schema, extraction: Extraction, rng: random.Random) -> tuple[Schema, Extraction]:
    """Ask for one entity type alone, without relations."""
    kind = rng.choice([t for t in ENTITY_TYPES if t in schema.entities])
    return Schema((kind,), ()), Extraction(tuple(e for e in extraction.entities if e.type == kind))
