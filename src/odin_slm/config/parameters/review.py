"""Which documents are worth correcting."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from odin_slm.config.parameters.base import Parameters


class MixParams(Parameters):
    """Weights of what documents are chosen for."""

    uncertain: float = Field(default=0.5, ge=0.0)
    """Those of whose items the model expects the largest share to be wrong."""
    diverse: float = Field(default=0.25, ge=0.0)
    """Those that differ most from what is chosen already."""
    random: float = Field(default=0.25, ge=0.0)
    """Drawn by chance."""

    @model_validator(mode="after")
    def _some(self) -> MixParams:
        if not self.uncertain + self.diverse + self.random:
            raise ValueError("one of uncertain, diverse and random must be more than 0.")
        return self


class ReviewParams(Parameters):
    """Which documents are worth correcting."""

    count: int = Field(default=50, ge=1)
    """Documents that are chosen."""
    candidates: int = Field(default=1000, ge=0)
    """Documents that the model reads to choose among, drawn by chance; 0: all."""
    mix: MixParams = MixParams()
    """What they are chosen for."""
    near_duplicate: float = Field(default=0.7, ge=0.3, le=1.0)
    """Jaccard similarity to a validation or test document, or to another candidate, from which none is chosen."""
    format: Literal["queue", "label_studio", "prodigy", "brat"] = "queue"
    """What is written: the queue of the service's page, or what an annotation tool imports."""
    seed: int = 42
    """Seed of all draws."""
