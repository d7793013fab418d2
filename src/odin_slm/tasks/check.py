"""A rule that the quality report holds a task's records to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from odin_slm.core.record import Record


@dataclass(frozen=True, slots=True)
class Check:
    """A rule that every record of a dataset must keep.

    Attributes:
        name: What must hold.
        severity: ``critical``, ``high`` or ``medium``.
        holds: Whether it holds of a record.
        fix: The way out.
        limit: Name of the quality profile's limit on the share of failures; empty: none may fail.
    """

    name: str
    severity: str
    holds: Callable[[Record], bool]
    fix: str
    limit: str = ""
