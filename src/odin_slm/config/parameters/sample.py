"""The embedded synthetic sample."""

from __future__ import annotations

from pydantic import Field

from odin_slm.config.parameters.base import Parameters


class SampleParams(Parameters):
    """The embedded synthetic sample."""

    seed: int = 42
    """Seed of the generator."""
    documents_per_corpus: int = Field(default=700, ge=10)
    """Documents of each corpus."""
