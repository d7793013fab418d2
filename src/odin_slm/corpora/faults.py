"""All faults of a corpus at once, each with its place and the advice that fits it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from odin_slm.core.errors import CorpusFormatError

_LISTED = 100

CUT_OFF = "The file seems to be cut off or another one: fetch it from its publisher and compare its sha256."
"""Advice for a file without an end or without content; a fault within it would be in a fresh copy as well."""
MEND_LINE = "Mend the line."


class Faults:
    """What is wrong with a corpus, collected while reading goes on."""

    def __init__(self) -> None:
        self._first: list[CorpusFormatError] = []  # as many as a message lists
        self._count = 0

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep the fault that ends the block."""
        try:
            yield
        except CorpusFormatError as fault:
            self._count += 1
            if len(self._first) < _LISTED:
                self._first.append(fault.with_traceback(None))

    def stop(self) -> None:
        """End reading where there are faults.

        Raises:
            CorpusFormatError: All of them, a line each, up to 100; the place is that of the first.
        """
        if not self._first:
            return
        lines = [self._first[0].what, *(f"{fault.where}: {fault.what}" for fault in self._first[1:])]
        if self._count > 1:
            more = self._count - len(self._first)
            lines.append(f"{more} more faults." if more else f"{self._count} faults in all.")
        advice = " ".join(dict.fromkeys(fault.fix for fault in self._first))
        raise CorpusFormatError("\n".join(lines), where=self._first[0].where, fix=advice)
