"""The rows of a predictions file as columns: what is compared, as numbers.

A row per item and side: entities as (example, type, text), relations as (example, head, type, tail), in listed order.
Texts are numbered by their normalised form, so that equal numbers are equal texts.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

from odin_slm.core.folding import fold
from odin_slm.tasks.extraction.format import read
from odin_slm.tasks.extraction.schema import MEDICAL, Types
from odin_slm.tasks.rows import Rows, group_of, require_readable

Numbers: TypeAlias = NDArray[Any]
EntityItem = tuple[str, str]
"""(type, normalised text)"""
RelationItem = tuple[str, str, str]
"""(normalised head, type, normalised tail)"""


class Texts(dict[str, int]):
    """Text as written -> number of its normalised form; numbers are given as texts come."""

    def __init__(self) -> None:
        super().__init__()
        self.normalised: list[str] = []
        self._numbers: dict[str, int] = {}

    def __missing__(self, written: str) -> int:
        text = fold(written)
        number = self._numbers.setdefault(text, len(self.normalised))
        if number == len(self.normalised):
            self.normalised.append(text)
        self[written] = number
        return number

    def known(self, normalised: str) -> int:
        """Return the number of a normalised text, or -1."""
        return self._numbers.get(normalised, -1)


@dataclass(frozen=True, slots=True)
class Entities:
    """Entities of one side, in listed order; arrays of one length."""

    rows: Numbers
    types: Numbers
    texts: Numbers


@dataclass(frozen=True, slots=True)
class Relations:
    """Relations of one side, in listed order; heads and tails are numbers of texts, or of texts with their types."""

    rows: Numbers
    heads: Numbers
    types: Numbers
    tails: Numbers


@dataclass(frozen=True, slots=True)
class Side:
    """What one side, gold or predicted, says."""

    entities: Entities
    relations: Relations


@dataclass(frozen=True, slots=True)
class Aliases:
    """Surface forms of concepts: in example ``rows[k]``, text ``forms[k]`` may stand for the canonical ``names[k]``.

    Every canonical name that has other forms stands for itself.
    """

    rows: Numbers
    forms: Numbers
    names: Numbers


@dataclass(frozen=True, slots=True)
class Examples:
    """A predictions file, read.

    Attributes:
        ids: Id of every example.
        source_names: The sources.
        sources: For every example, the place of its source among them.
        groups: Number of the abstract that every example comes from; see :func:`odin_slm.tasks.rows.group_of`.
        words: Words of every input.
        gold: What was to be found.
        predicted: What the model wrote.
        foreign: For every entity of ``predicted``, whether it is not in its input.
        malformed: For every example, whether a line of the prediction breaks the format.
        unfinished: For every example, whether the model did not end the output itself.
        texts: The numbered texts.
        aliases: Other surface forms of gold names; None where no row carries them.
        types: The types that items are numbered by.
    """

    ids: list[str]
    source_names: list[str]
    sources: Numbers
    groups: Numbers
    words: Numbers
    gold: Side
    predicted: Side
    foreign: Numbers
    malformed: Numbers
    unfinished: Numbers
    texts: Texts
    aliases: Aliases | None
    types: Types

    def __len__(self) -> int:
        return len(self.ids)


def read_examples(rows: Rows, types: Types = MEDICAL) -> Examples:
    """Read the rows of a predictions file.

    Args:
        rows: Mappings with at least ``id``, ``input``, ``gold`` and ``prediction``; ``source``, ``document_id``,
            ``group``, ``finished`` and ``surface_forms`` (gold name -> other surface forms of its concept) if known.
        types: The types that outputs may name.

    Raises:
        PredictionsError: There is no row, a field is missing, or an id occurs twice.
    """
    require_readable(rows)
    texts, groups, source_numbers = Texts(), _Numbered(), _Numbered()
    gold, predicted = _SideWriter(texts, types), _SideWriter(texts, types)
    foreign, malformed, unfinished = bytearray(), bytearray(), bytearray()
    words, group_of_row, sources = array("q"), array("q"), array("q")
    aliases = tuple(array("q") for _ in range(3))
    for number, row in enumerate(rows):
        reference, output = row["gold"], row["prediction"]
        read_gold = read(reference, types)
        read_prediction = read_gold if output == reference else read(output, types)
        gold.add(read_gold)
        listed = predicted.add(read_prediction)
        text = fold(row["input"])
        foreign.extend([texts.normalised[entity] not in text for entity in listed])
        malformed.append(bool(read_prediction[2]))
        unfinished.append(not row.get("finished", True))
        words.append(len(text.split()))
        sources.append(source_numbers[row.get("source") or "unknown"])
        group_of_row.append(groups[group_of(row)])
        for name, others in (row.get("surface_forms") or {}).items():
            for other in (*others, name):
                for column, value in zip(aliases, (number, texts[other], texts[name]), strict=True):
                    column.append(value)
    return Examples(
        ids=[row["id"] for row in rows],
        source_names=list(source_numbers),
        sources=_column(sources),
        groups=_column(group_of_row),
        words=_column(words),
        gold=gold.side(),
        predicted=predicted.side(),
        foreign=numpy.frombuffer(bytes(foreign), dtype=bool),
        malformed=numpy.frombuffer(bytes(malformed), dtype=bool),
        unfinished=numpy.frombuffer(bytes(unfinished), dtype=bool),
        texts=texts,
        aliases=Aliases(*map(_column, aliases)) if any("surface_forms" in row for row in rows) else None,
        types=types,
    )


class _Numbered(dict[str, int]):
    """Name -> number, in order of appearance."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number


class _SideWriter:
    def __init__(self, texts: Texts, types: Types) -> None:
        self._text = texts.__getitem__
        self._entity_number = {name: number for number, name in enumerate(types.entities)}.__getitem__
        self._relation_number = {name: number for number, name in enumerate(types.relations)}.__getitem__
        self._entities = tuple(array("q") for _ in range(3))  # how many of each example, types, texts
        self._relations = tuple(array("q") for _ in range(4))  # how many of each example, heads, types, tails

    def add(self, output: tuple[list[tuple[str, str]], list[tuple[str, str, str]], list[str]]) -> list[int]:
        """Add an example; return the texts of its entities."""
        entities, relations, _ = output
        counts, types, texts = self._entities
        counts.append(len(entities))
        listed: list[int] = []
        if entities:
            kinds, names = zip(*entities, strict=True)
            listed = list(map(self._text, names))
            types.extend(map(self._entity_number, kinds))
            texts.extend(listed)
        counts, heads, types, tails = self._relations
        counts.append(len(relations))
        if relations:
            here, kinds, there = zip(*relations, strict=True)
            heads.extend(map(self._text, here))
            types.extend(map(self._relation_number, kinds))
            tails.extend(map(self._text, there))
        return listed

    def side(self) -> Side:
        counts, *entities = map(_column, self._entities)
        numbers, *relations = map(_column, self._relations)
        rows = numpy.arange(len(counts))
        return Side(Entities(numpy.repeat(rows, counts), *entities), Relations(numpy.repeat(rows, numbers), *relations))


def _column(values: array[int]) -> Numbers:
    return numpy.frombuffer(values, dtype=numpy.int64) if values else numpy.zeros(0, dtype=numpy.int64)


# Views


def collapse(entities: Entities, into: Mapping[str, str], types: Types) -> Entities:
    """Return the entities with types replaced."""
    numbers = numpy.array([types.entities.index(into.get(name, name)) for name in types.entities])
    return replace(entities, types=numbers[entities.types])


@dataclass(frozen=True, slots=True)
class Items:
    """Distinct items of one kind as keys, sorted: ``rows * width + item``.

    Attributes:
        keys: The keys.
        width: More than the largest item.
        rows: Example of each key.
        items: Item of each key.
        types: Type of each key.
    """

    keys: Numbers
    width: int
    rows: Numbers
    items: Numbers
    types: Numbers

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, mask: Numbers) -> Items:
        """Return those that the mask marks."""
        return replace(self, keys=self.keys[mask], rows=self.rows[mask], items=self.items[mask], types=self.types[mask])


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides' distinct items of one kind, numbered alike; what an item number stands for.

    Attributes:
        size: How many examples there are.
        predicted: Predicted items.
        gold: Gold items.
        heads: Head of every item; the text of an entity.
        kinds: Type of every item.
        tails: Tail of every item; -1 for an entity.
    """

    size: int
    predicted: Items
    gold: Items
    heads: Numbers
    kinds: Numbers
    tails: Numbers

    def select(self, predicted: Numbers, gold: Numbers) -> Pair:
        """Return the pair with those items that the masks mark."""
        return replace(self, predicted=self.predicted.select(predicted), gold=self.gold.select(gold))


def pair_entities(size: int, predicted: Entities, gold: Entities) -> Pair:
    """Return the distinct entities of both sides; they are equal where type and text are."""
    columns = [(e.rows, e.texts, e.types, numpy.full(len(e.rows), -1)) for e in (predicted, gold)]
    return _pair(size, *columns)


def pair_relations(size: int, predicted: Relations, gold: Relations) -> Pair:
    """Return the distinct relations of both sides; they are equal where head, type and tail are."""
    columns = [(r.rows, r.heads, r.types, r.tails) for r in (predicted, gold)]
    return _pair(size, *columns)


def _pair(size: int, *sides: tuple[Numbers, Numbers, Numbers, Numbers]) -> Pair:
    heads, kinds, tails = (numpy.concatenate([side[column] for side in sides]) for column in (1, 2, 3))
    wide = int(max(heads.max(initial=0), tails.max(initial=0))) + 2
    types = int(kinds.max(initial=0)) + 1
    codes, items = numpy.unique((heads * types + kinds) * wide + tails + 1, return_inverse=True)
    head_type, tail = numpy.divmod(codes, wide)
    head, kind = numpy.divmod(head_type, types)
    width = max(1, len(codes))
    columns, begin = [], 0
    for side in sides:
        keys = distinct(side[0] * width + items[begin : begin + len(side[0])])
        begin += len(side[0])
        rows, own = numpy.divmod(keys, width)
        columns.append(Items(keys, width, rows, own, kind[own]))
    return Pair(size, columns[0], columns[1], head, kind, tail - 1)


def distinct(values: Numbers) -> Numbers:
    """Return the distinct values, in order."""
    ordered = numpy.sort(values)  # many times faster than the hash table of numpy.unique
    first: Numbers = numpy.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    result: Numbers = ordered[first]
    return result


def contained(values: Numbers, ordered: Numbers) -> Numbers:
    """Return which values occur in a sorted array."""
    if not len(ordered):
        return numpy.zeros(len(values), dtype=bool)
    places: Numbers = numpy.asarray(numpy.searchsorted(ordered, values))
    places[places == len(ordered)] = 0
    found: Numbers = ordered[places] == values
    return found


def per_row(size: int, rows: Numbers) -> Numbers:
    """Return how often each example occurs in ``rows``."""
    return numpy.bincount(rows, minlength=size)


def by_row(rows: Numbers, values: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield (example, its values); ``rows`` is sorted."""
    listed = list(values)
    begins = numpy.flatnonzero(numpy.diff(rows, prepend=-1))
    for row, (begin, end) in zip(rows[begins].tolist(), pairwise([*begins.tolist(), len(listed)]), strict=True):
        yield row, listed[begin:end]
