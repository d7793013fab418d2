"""How a registered version becomes champion."""

from __future__ import annotations

from pydantic import model_validator

from odin_slm.config.parameters.base import Parameters


class PromotionParams(Parameters):
    """How a registered version becomes champion."""

    force: bool = False
    """Promote it whatever the paired test says."""
    reason: str = ""
    """Why it is forced; the registry's history keeps it."""
    rescore: bool = False
    """Let a champion of other data extract from this test set as well, and compare the two on it."""

    @model_validator(mode="after")
    def _reason_for_force(self) -> PromotionParams:
        if self.force and not self.reason.strip():
            raise ValueError("promotion.force needs promotion.reason=WHY, which the registry's history keeps.")
        return self
