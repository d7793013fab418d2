"""All faults of a corpus at once, each with its place and the advice that fits it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from odin_slm.core.errors import CorpusFormatError

_LISTED, _MOST = 100, 10_000

CUT_OFF = "The file seems to be cut off or another one: fetch it from its publisher and compare its sha256."
"""Advice for a file without an end or without content; a fault within it would be in a fresh copy as well."""
MEND_LINE = "Mend the line."


class Faults:
    """What is wrong with a corpus, collected while reading goes on, up to 10,000 faults.

    Args:
        drop: Whether a fault of a known kind costs what it is in, and no more.

    Attributes:
        dropped: Kind -> how many faults have cost what they are in.
        listed: The first of those, and of all others.
        count: How many of the others there are.
    """

    def __init__(self, *, drop: bool = False) -> None:
        self.dropped: Counter[str] = Counter()
        self.listed: list[CorpusFormatError] = []
        self._drop = drop
        self._kinds: list[str] = []  # of the blocks that are open
        self._first: list[CorpusFormatError] = []  # as many as a message lists
        self.count = 0
        self._end: CorpusFormatError | None = None

    def collected(self, kind: str = "") -> Faults:
        """Return what keeps the fault that ends a ``with`` block.

        Args:
            kind: What a fault there costs, for the count of what was dropped; empty where nothing can be left out.
        """
        self._kinds.append(kind)
        return self

    def __enter__(self) -> None:
        """Begin a block."""

    def __exit__(self, error: Any, fault: BaseException | None, traceback: Any) -> bool:
        """Keep the fault and go on, but not with what is no corpus at all."""
        kind = self._kinds.pop()
        if not isinstance(fault, CorpusFormatError) or fault is self._end:
            return False
        if len(self.listed) < _LISTED:
            self.listed.append(fault.with_traceback(None))
        if self._drop and kind:
            self.dropped[kind] += 1
            return True
        self.count += 1
        if len(self._first) < _LISTED:
            self._first.append(fault.with_traceback(None))
        if self.count >= _MOST:
            self.stop()
        return True

    def stop(self) -> None:
        """End reading where there are faults.

        Raises:
            CorpusFormatError: All of them, a line each, up to 100; the place is that of the first.
        """
        if not self._first:
            return
        lines = [self._first[0].what, *(f"{fault.where}: {fault.what}" for fault in self._first[1:])]
        if self.count >= _MOST:
            lines.append(f"Reading stopped at fault {self.count}.")
        elif self.count > _LISTED:
            lines.append(f"{self.count - _LISTED} more faults.")
        elif self.count > 1:
            lines.append(f"{self.count} faults in all.")
        advice = " ".join(dict.fromkeys(fault.fix for fault in self._first))
        self._end = CorpusFormatError("\n".join(lines), where=self._first[0].where, fix=advice)
        raise self._end
