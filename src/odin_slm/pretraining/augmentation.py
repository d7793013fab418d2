"""Augmentation of annotated documents: other names, enumerations, names with affixes, renamed or narrowed schemas."""

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
    """Replace every surface with another name of its type or an invented name; equal surfaces get equal names."""
    if not _disjoint(document):
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


def _disjoint(document: Document) -> bool:
    """Tell whether no mentions overlap; nested or overlapping mentions cannot be replaced one by one."""
    return all(one.end <= other.begin for one, other in pairwise(document.mentions))


def _renamed_mentions(document: Document, name: Callable[[Mention], str]) -> Document:
    """Replace every mention with another name; a document with overlapping mentions stays as it is."""
    if not _disjoint(document):
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
    """Replace every mention with one of a few names of its type, and drop the relations."""
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


_AFFIXES = (
    *[("(", ")"), ("[", "]"), ('"', '"'), ("", "-induced"), ("", "-related"), ("", "-associated"), ("", "/")],
    *[(prefix, "") for prefix in ("anti-", "non-", "post-", "pre-", "pseudo-", "-", "/", "'")],
)
"""Strings that touch a name, before and after it."""


def add_affixes(document: Document, rng: random.Random) -> Document:
    """Put brackets, quotes, prefixes or suffixes around most mentions; the mentions themselves do not change."""
    if not _disjoint(document):
        return document
    text, position = "", 0
    moved: list[Mention] = []
    for mention in document.mentions:
        before, after = rng.choice(_AFFIXES) if rng.random() < 0.7 else ("", "")
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
    """Extend a mention to an enumeration; the added names take part in the same relations.

    Args:
        document: The document.
        names: Known names of each type.
        rng: Source of the draws.
        concepts: Concepts whose mentions may be extended; the added names are then long or similar to each other. None
            allows any mention, and draws names without regard to length and similarity.
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
        if name.casefold() not in taken:  # a name from the text may belong to another concept
            added.append(name)
            taken += " " + name.casefold()
    if not added:
        return document
    last = rng.choice((" and ", ", and ", ", and ", " or ", ", "))
    text, position = document.text[: chosen.end], chosen.end
    items = []
    for number, name in enumerate(added):
        text += last if number == len(added) - 1 else ", "
        # The concept of the surface would be wrong: its mentions may have been renamed.
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
    """Return a longer name, or one that shares a part with the name before it; 40 % of names are unchanged."""
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
    """Rename the types and relations, in the schema and in the extraction alike."""
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
    """Reduce the schema to one entity type, without relations."""
    kind = rng.choice([t for t in ENTITY_TYPES if t in schema.entities])
    return Schema((kind,), ()), Extraction(tuple(e for e in extraction.entities if e.type == kind))
