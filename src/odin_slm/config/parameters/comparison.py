"""All tracked runs side by side."""

from __future__ import annotations

from odin_slm.config.parameters.base import Parameters


class ComparisonParams(Parameters):
    """All tracked runs side by side."""

    experiment: str | None = None
    """Only the runs of this experiment; None takes all."""
