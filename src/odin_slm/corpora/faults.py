"""All faults of a corpus at once, each with its place and the advice that fits it."""

from __future__ import annotations

from typing import Any

from odin_slm.core.errors import CorpusFormatError

_LISTED, _MOST = 100, 10_000

CUT_OFF = "The file seems to be cut off or another one: fetch it from its publisher and compare its sha256."
"""Advice for a file without an end or without content; a fault within it would be in a fresh copy as well."""
MEND_LINE = "Mend the line."


class Faults:
    """What is wrong with a corpus, collected while reading goes on, up to 10,000 faults."""

    def __init__(self) -> None:
        self._first: list[CorpusFormatError] = []  # as many as a message lists
        self._count = 0
        self._end: CorpusFormatError | None = None

    def collected(self) -> Faults:
        """Return what keeps the fault that ends a ``with`` block."""
        return self

    def __enter__(self) -> None:
        """Begin a block."""

    def __exit__(self, kind: Any, fault: BaseException | None, traceback: Any) -> bool:
        """Keep the fault and go on, but not with what is no corpus at all."""
        if not isinstance(fault, CorpusFormatError) or fault is self._end:
            return False
        self._count += 1
        if len(self._first) < _LISTED:
            self._first.append(fault.with_traceback(None))
        if self._count >= _MOST:
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
        if self._count >= _MOST:
            lines.append(f"Reading stopped at fault {self._count}.")
        elif self._count > _LISTED:
            lines.append(f"{self._count - _LISTED} more faults.")
        elif self._count > 1:
            lines.append(f"{self._count} faults in all.")
        advice = " ".join(dict.fromkeys(fault.fix for fault in self._first))
        self._end = CorpusFormatError("\n".join(lines), where=self._first[0].where, fix=advice)
        raise self._end
