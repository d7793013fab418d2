"""Where a running job reports its figures: to nobody, until the application says to whom, as with logging.

Training and sweeping know this page alone; :mod:`odin_slm.tracking.mlflow_tracker` is the tracker of ``kedro run``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Tracker:
    """A tracker that keeps nothing."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the figures of one step."""

    @contextmanager
    def trial(self, name: str, parameters: Mapping[str, Any]) -> Iterator[None]:
        """Open a run below the present one; what is logged inside the block is the trial's."""
        yield


_tracker = Tracker()


def tracker() -> Tracker:
    """Return the tracker of this process."""
    return _tracker


def report_to(new: Tracker) -> None:
    """Make a tracker the one of this process."""
    global _tracker
    _tracker = new
