"""Keys and values of a batch in memory that is taken once.

``DynamicCache`` of transformers concatenates at every step and so copies all that it holds. Here a step writes its
columns, and a finished row is overwritten by the last one, so that the batch shrinks as its outputs end. A row that
reads fewer tokens in a step than another leaves columns unused; they are given up when they are too many. What all
prompts of a batch begin with, the instruction, may come from an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicLayer

_COLUMNS = 256
_MOST_UNUSED = 2
"""Columns are rearranged once they are so many times as many as the longest row uses."""

Begin = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of the tokens that prompts begin with, layer by layer, each of shape (1, heads, tokens, features)."""


class BatchCache(Cache):
    """Keys and values of all layers.

    Args:
        layers: Layers of the model.
        rows: For every row of the batch to decode, the row of the prefilled batch that it continues.
        columns: Positions that a row can reach.
        padding: How many padding tokens lead each row of the prefilled batch.
        begin: What stands between the padding and the first token of every row, read before; None if nothing does.
    """

    def __init__(
        self,
        layers: int,
        rows: torch.Tensor,
        columns: int,
        padding: torch.Tensor,
        begin: Begin | None = None,
    ) -> None:
        pairs = begin or (None,) * layers
        super().__init__(layers=[_Layer(rows, columns, padding, pair) for pair in pairs])

    def first_row(self) -> Begin:
        """Return keys and values of the first row as a :data:`Begin`."""
        return [
            (layer.keys[:1, :, : layer.get_seq_length()], layer.values[:1, :, : layer.get_seq_length()])
            for layer in self.layers
        ]

    def row(self, number: int, used: torch.Tensor) -> Begin:
        """Return keys and values of a row as a :data:`Begin`.

        Args:
            number: The row.
            used: Which columns it uses, shape (filled,).
        """
        columns = used.nonzero()[:, 0]
        return [
            (layer.keys[number : number + 1, :, columns], layer.values[number : number + 1, :, columns])
            for layer in self.layers
        ]

    def drop(self, rows: list[int]) -> list[int]:
        """Drop rows.

        Args:
            rows: Row numbers, each once.

        Returns:
            For every row that is left, the number it had before.
        """
        count = self.layers[0].rows
        left = count - len(rows)
        gone = set(rows)
        order = list(range(left))
        spare = iter([row for row in range(left, count) if row not in gone])
        for row in sorted(gone):
            if row < left:
                order[row] = next(spare)
        moved = [row for row in range(left) if order[row] != row]
        for layer in self.layers:
            layer.move(moved, [order[row] for row in moved], left)
        return order

    def close_gaps(self, mask: torch.Tensor, *, all_of_them: bool = False) -> torch.Tensor:
        """Let rows use columns that follow each other up to the last one, where too many are unused.

        Args:
            mask: Which columns the rows use, shape (rows, filled).
            all_of_them: Whether to do so where few are unused too.

        Returns:
            The mask after it.
        """
        used = mask.sum(-1)
        width = int(used.max())
        if mask.shape[1] <= (width if all_of_them else _MOST_UNUSED * width):
            return mask
        # a stable sort keeps the used columns in their order, behind the unused ones
        order = mask.sort(dim=1, stable=True).indices[:, -width:]
        for layer in self.layers:
            layer.keep(order)
        return (torch.arange(width, device=mask.device) >= width - used[:, None]).to(mask.dtype)

    def join(self, other: BatchCache, mask: torch.Tensor, other_mask: torch.Tensor, room: int) -> torch.Tensor:
        """Take over the rows of another cache.

        Rows end at the same column, whatever their length; columns that no row needs are given up.

        Args:
            other: A cache of the same model, just filled.
            mask: Which columns the rows of this cache use, shape (rows, filled).
            other_mask: The same for the other.
            room: Columns that are still to come, at most.

        Returns:
            The mask of all rows, those of the other cache last.
        """
        mask = self.close_gaps(mask, all_of_them=True)
        width = max(mask.shape[1], other_mask.shape[1])
        for layer, more in zip(self.layers, other.layers, strict=True):
            layer.join(more, width, room)
        return torch.cat([torch.nn.functional.pad(part, (width - part.shape[1], 0)) for part in (mask, other_mask)])


class _Layer(DynamicLayer):
    """Keys and values of one layer: tensors of shape (rows, heads, columns, features), filled from the left."""

    def __init__(
        self,
        rows: torch.Tensor,
        columns: int,
        padding: torch.Tensor,
        begin: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        super().__init__()
        self.rows = len(rows)
        self._continues = rows
        self._columns = columns
        self._padding, self._begin = padding, begin
        self._filled = begin[0].shape[2] if begin else 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new columns; return all that the attention may read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            if self._begin is not None:
                key_states, value_states = map(self._after_begin, self._begin, (key_states, value_states))
                self._begin = None
            shape = (self.rows, key_states.shape[1], self._columns, key_states.shape[3])
            self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
            self._filled = key_states.shape[2]
            self.keys[:, :, : self._filled] = key_states[self._continues]
            self.values[:, :, : self._filled] = value_states[self._continues]
            return key_states, value_states
        end = self._filled + key_states.shape[2]
        if end > self.keys.shape[2]:
            pad = (0, 0, 0, end - self.keys.shape[2] + _COLUMNS)
            self.keys, self.values = (torch.nn.functional.pad(part, pad) for part in (self.keys, self.values))
        self.keys[: self.rows, :, self._filled : end] = key_states
        self.values[: self.rows, :, self._filled : end] = value_states
        self._filled = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def _after_begin(self, begin: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Return what was read with the begin before it: padding, begin, tokens."""
        prompts, heads, width, features = read.shape
        tokens = begin.shape[2]
        joined = read.new_zeros(prompts, heads, tokens + width, features)
        joined[:, :, tokens:] = read
        columns = self._padding[:, None] + torch.arange(tokens, device=read.device)
        rows = torch.arange(prompts, device=read.device)[:, None]
        joined.transpose(1, 2)[rows, columns] = begin.transpose(1, 2)
        return joined

    def move(self, targets: list[int], sources: list[int], left: int) -> None:
        """Copy rows over others, and keep the first ``left`` ones."""
        if targets:
            self.keys[targets, :, : self._filled] = self.keys[sources, :, : self._filled]
            self.values[targets, :, : self._filled] = self.values[sources, :, : self._filled]
        self.rows = left

    def keep(self, order: torch.Tensor) -> None:
        """Keep some columns of every row, in an order of their own: shape (rows, columns)."""
        rows = torch.arange(self.rows, device=order.device)[:, None]
        for part in (self.keys, self.values):
            columns = part.transpose(1, 2)
            columns[: self.rows, : order.shape[1]] = columns[rows, order]
        self._filled = order.shape[1]

    def join(self, other: _Layer, width: int, room: int) -> None:
        """Append the rows of another layer; all rows end at the column ``width``."""
        rows, begin = self.rows + other.rows, width - self._filled
        for name in ("keys", "values"):
            old, new = getattr(self, name), getattr(other, name)
            kept = old[: self.rows, :, : self._filled]
            target = old
            if old.shape[0] < rows or old.shape[2] < width + room:
                # Some to spare, so that a batch that rows join for hours soon needs no new memory.
                places = max(1 << (rows - 1).bit_length(), old.shape[0])
                columns = max(-(-(width + room) // _COLUMNS) * _COLUMNS, old.shape[2])
                shape = (places, old.shape[1], columns, old.shape[3])
                target = old.new_empty(shape)
            elif begin:
                kept = kept.clone()  # it moves within itself
            if target is not old or begin:
                target[: self.rows, :, begin:width] = kept
            target[self.rows : rows, :, width - other._filled : width] = new[:, :, : other._filled]
            # What a mask leaves out is still multiplied by zero, and must not be infinite or undefined.
            target[: self.rows, :, :begin] = 0
            target[self.rows : rows, :, : width - other._filled] = 0
            setattr(self, name, target)
        self.rows, self._filled = rows, width

    def get_seq_length(self) -> int:
        """Return the number of filled columns."""
        return self._filled
