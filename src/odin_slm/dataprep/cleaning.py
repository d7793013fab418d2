"""Cleaning steps of a combined dataset: each pure, switched on by a parameter, and accountable record by record."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from odin_slm.core.hashing import short_digest
from odin_slm.core.record import Record
from odin_slm.core.rows import chosen, stored
from odin_slm.tasks import Task

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

    records: dict[str, Sequence[Record]]
    changed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def normalise_text(splits: Splits, task: Task) -> Cleaned:
    """Put inputs and outputs into Unicode NFC, with plain spaces and quotes; see :meth:`Task.cleaned`."""
    changed = []

    def plain(record: Record) -> Record:
        fresh = task.cleaned(record, plain_text)
        if fresh != record:
            changed.append(fresh["id"])
        return fresh

    return Cleaned({name: stored(map(plain, part)) for name, part in splits.items()}, changed=changed)


def drop_duplicates(splits: Splits) -> Cleaned:
    """Leave out records whose input, apart from case and space, repeats an earlier one of the same split."""
    records: dict[str, Sequence[Record]] = {}
    left_out = []
    for name, part in splits.items():
        first: dict[bytes, int] = {}
        for position, record in enumerate(part):
            if first.setdefault(input_digest(record), position) != position:
                left_out.append(record["id"])
        records[name] = chosen(part, first.values())
    return Cleaned(records, left_out=left_out)


def drop_empty(splits: Splits, task: Task) -> Cleaned:
    """Leave out training records without labels of the first kind; validation and test stay as their corpora are."""
    if not task.labels(""):  # nothing that an output could be without
        return Cleaned(dict(splits))
    empty = [r["id"] for r in splits["train"] if not _first_labels(task, r)]
    return _without(splits, set(empty))


def balance(splits: Splits, task: Task, *, by: str, limit: float) -> Cleaned:
    """Thin out training: no group keeps more than ``limit`` times the records of the smallest one.

    The first records of a group stay, and training is shuffled by its seed. By type, a record counts for the rarest of
    its entity types; records without entities are a group of their own, which sets no limit.

    Args:
        splits: Split -> records.
        task: What reads the labels.
        by: ``source`` or ``type``.
        limit: How many times the smallest group the largest may be.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    types = {r["id"]: set(_first_labels(task, r)) for r in splits["train"]}
    often = Counter(kind for kinds in types.values() for kind in kinds)
    for record in splits["train"]:
        rarest = min(types[record["id"]], key=lambda kind: (often[kind], kind), default="")
        groups[record["source"] if by == "source" else rarest].append(record["id"])
    sizes = [len(ids) for name, ids in groups.items() if name]
    most = int(limit * min(sizes)) if sizes else 0
    return _without(splits, {identifier for ids in groups.values() for identifier in ids[most:]} if sizes else set())


def _without(splits: Splits, ids: set[str]) -> Cleaned:
    kept, left_out = [], []
    for position, record in enumerate(splits["train"]):
        if record["id"] in ids:
            left_out.append(record["id"])
        else:
            kept.append(position)
    return Cleaned({**splits, "train": chosen(splits["train"], kept)}, left_out=left_out)


def _first_labels(task: Task, record: Record) -> list[str]:
    return next(iter(task.labels(record["output"]).values()), [])


def input_digest(record: Record) -> bytes:
    """Return what tells the input apart from others, whatever its case and space: 16 bytes."""
    return short_digest(" ".join(record["input"].casefold().split()))


def plain_text(text: str) -> str:
    """Return a text in Unicode NFC, with plain spaces and quotes."""
    return unicodedata.normalize("NFC", text).translate(_PLAIN)
