"""Rows that need no memory: they lie in a file, and are read one by one, in any order, as often as they are wanted."""

from __future__ import annotations

import json
import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, BinaryIO, Generic, TypeVar, overload

import numpy

from odin_slm.core.json_text import loads

Row = TypeVar("Row")
Numbers = numpy.ndarray[Any, numpy.dtype[numpy.int64]]


class _LazySequence(Sequence[Row]):
    """A sequence whose items are made when they are asked for; a slice is another one, and a copy the same one."""

    def __iter__(self) -> Iterator[Row]:
        return (self._at(position) for position in range(len(self)))

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Row]: ...
    def __getitem__(self, key: int | slice) -> Row | Sequence[Row]:
        if isinstance(key, slice):
            return chosen(self, range(len(self))[key])
        return self._at(range(len(self))[key])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memory: Any) -> _LazySequence[Row]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # another process has not opened the file

    def _at(self, position: int) -> Row:
        raise NotImplementedError


class Rows(_LazySequence[Row]):
    """Rows of a file that stays open, so that they are what they were when it was opened, whatever replaces it.

    Args:
        stream: The file.
        begins: Offset of every row's first byte.
        ends: Offset after its last byte.
        read: Makes a row of its bytes and of its number in the file, from 0.
        order: Numbers of the rows, in their order here; None for all, in the file's order.
    """

    def __init__(
        self,
        stream: BinaryIO,
        begins: Numbers,
        ends: Numbers,
        read: Callable[[bytes, int], Row],
        order: Numbers | None = None,
    ) -> None:
        self._file = stream, begins, ends, read
        self._order = order

    def __len__(self) -> int:
        return len(self._file[1] if self._order is None else self._order)

    def chosen(self, positions: Iterable[int]) -> Rows[Row]:
        """Return some of the rows, by their positions here, in that order."""
        places = numpy.fromiter(positions, numpy.int64)
        return Rows(*self._file, places if self._order is None else self._order[places])

    def _at(self, position: int) -> Row:
        stream, begins, ends, read = self._file
        number = position if self._order is None else int(self._order[position])
        begin = int(begins[number])
        return read(os.pread(stream.fileno(), int(ends[number]) - begin, begin), number)


class Mapped(_LazySequence[Row], Generic[Row]):
    """What a function makes of each item of a sequence."""

    def __init__(self, make: Callable[[Any], Row], items: Sequence[Any]) -> None:
        self._make, self._items = make, items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Row]:
        return map(self._make, self._items)

    def _at(self, position: int) -> Row:
        return self._make(self._items[position])


class Joined(_LazySequence[Row]):
    """The items of several sequences, one after the other."""

    def __init__(self, *parts: Sequence[Row]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(self._parts)

    def _at(self, position: int) -> Row:
        part = bisect_right(self._ends, position)
        return self._parts[part][position - self._ends[part]]


def chosen(items: Sequence[Row], positions: Iterable[int]) -> Sequence[Row]:
    """Return some items of a sequence, in the order of the positions; rows of a file stay there."""
    return items.chosen(positions) if isinstance(items, Rows) else [items[position] for position in positions]


def stored(rows: Iterable[Row]) -> Rows[Row]:
    """Keep rows (JSON values) in a temporary file, which goes when nobody holds them any more."""
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - the rows hold it
    ends = numpy.fromiter(accumulate(stream.write(json.dumps(row).encode()) for row in rows), numpy.int64)
    stream.flush()
    begins = numpy.concatenate([numpy.zeros(1, numpy.int64), ends[:-1]]) if len(ends) else ends
    return Rows(stream, begins, ends, lambda line, _: loads(line))
