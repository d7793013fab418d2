"""Cleaning steps of a combined dataset: each pure, switched on by a parameter, and accountable record by record."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from odin_slm.core.record import Record
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, parse, render

Splits = Mapping[str, Sequence[Record]]

_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_QUOTES = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
_PLAIN = str.maketrans({**dict.fromkeys(_SPACES, " "), **_QUOTES})
"""Spaces of all widths, and typographic quotes, as a keyboard writes them."""


@dataclass(frozen=True)
class Cleaned:
    """What a step leaves.

    Attributes:
        records: Split -> records, in their order.
        changed: Ids of the records whose text it changed.
        left_out: Ids of the records that it left out.
    """

    records: dict[str, list[Record]]
    changed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def normalise_text(splits: Splits) -> Cleaned:
    """Put inputs and mentions into Unicode NFC, with plain spaces and quotes.

    Entities that become equal apart from case are listed once, by the first, and so are relations of them. A record
    whose mentions would no longer stand verbatim in its input stays as it is.
    """
    records: dict[str, list[Record]] = {name: [] for name in splits}
    changed = []
    for name, part in splits.items():
        for record in part:
            extraction = parse(record["output"]).extraction
            text = plain_text(record["input"])
            plain = _plain_extraction(extraction)
            fresh: Record = {**record, "input": text, "output": render(plain)}
            if fresh != record and all(e.text in text for e in plain.entities):
                changed.append(record["id"])
                records[name].append(fresh)
            else:
                records[name].append(record)
    return Cleaned(records, changed=changed)


def drop_duplicates(splits: Splits) -> Cleaned:
    """Leave out records whose input, apart from case and space, repeats an earlier one of the same split."""
    records: dict[str, list[Record]] = {name: [] for name in splits}
    left_out = []
    for name, part in splits.items():
        seen = set()
        for record in part:
            key = " ".join(record["input"].casefold().split())
            if key in seen:
                left_out.append(record["id"])
            else:
                seen.add(key)
                records[name].append(record)
    return Cleaned(records, left_out=left_out)


def drop_empty(splits: Splits) -> Cleaned:
    """Leave out training records without entities; validation and test stay as their corpora are."""
    empty = [r["id"] for r in splits["train"] if not parse(r["output"]).extraction.entities]
    return _without(splits, set(empty))


def balance(splits: Splits, *, by: str, limit: float) -> Cleaned:
    """Thin out training: no group keeps more than ``limit`` times the records of the smallest one.

    The first records of a group stay, and training is shuffled by its seed. By type, a record counts for the rarest of
    its entity types; records without entities are a group of their own, which sets no limit.

    Args:
        splits: Split -> records.
        by: ``source`` or ``type``.
        limit: How many times the smallest group the largest may be.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    types = {r["id"]: {e.type for e in parse(r["output"]).extraction.entities} for r in splits["train"]}
    often = Counter(kind for kinds in types.values() for kind in kinds)
    for record in splits["train"]:
        rarest = min(types[record["id"]], key=lambda kind: (often[kind], kind), default="")
        groups[record["source"] if by == "source" else rarest].append(record["id"])
    sizes = [len(ids) for name, ids in groups.items() if name]
    most = int(limit * min(sizes)) if sizes else 0
    return _without(splits, {identifier for ids in groups.values() for identifier in ids[most:]} if sizes else set())


def _without(splits: Splits, ids: set[str]) -> Cleaned:
    records = {name: list(part) for name, part in splits.items()}
    left_out = [record["id"] for record in records["train"] if record["id"] in ids]
    records["train"] = [record for record in records["train"] if record["id"] not in ids]
    return Cleaned(records, left_out=left_out)


def _plain_extraction(extraction: Extraction) -> Extraction:
    entities: dict[tuple[str, str], Entity] = {}
    names: dict[str, str] = {}
    for entity in extraction.entities:
        text = plain_text(entity.text)
        first = entities.setdefault((entity.type, text.casefold()), Entity(entity.type, text))
        names.setdefault(entity.text, first.text)

    def name(text: str) -> str:
        return names.get(text, plain_text(text))

    relations = (RelationTriple(name(r.head), r.type, name(r.tail)) for r in extraction.relations)
    return Extraction(tuple(entities.values()), tuple(dict.fromkeys(relations)))


def plain_text(text: str) -> str:
    """Return a text in Unicode NFC, with plain spaces and quotes."""
    return unicodedata.normalize("NFC", text).translate(_PLAIN)
