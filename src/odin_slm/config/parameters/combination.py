"""From records to one leak-free dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from odin_slm.config.parameters.base import Parameters


class CombinationParams(Parameters):
    """From records to one leak-free dataset."""

    drop_duplicates: bool = False
    """Leave out records whose input, apart from case and space, repeats an earlier one of the same split."""
    drop_empty: bool = False
    """Leave out records without entities from training."""
    normalise_text: bool = False
    """Put inputs and mentions into Unicode NFC, with plain spaces and quotes."""
    balance_by: Literal["none", "source", "type"] = "none"
    """Thin out training until no source (or entity type) has more records than the smallest one times balance_limit."""
    balance_limit: float = Field(default=3.0, ge=1.0)
    """How many times the smallest group the largest may be, where balance_by is on."""

    validation_ratio: float = Field(default=0.1, ge=0.0, lt=0.5)
    """Share of the document groups without official split that validate."""
    test_ratio: float = Field(default=0.1, ge=0.0, lt=0.5)
    """Share of them that test."""
    official_validation: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the document groups of an official validation part that validate; the others train."""
    near_duplicate: float = Field(default=0.7, ge=0.05, le=1.0)
    """Jaccard similarity of character 5-grams from which two texts must stay together."""
    quality_profile: Literal["exploration", "ml-training", "publishing"] = "ml-training"
    """How strict the quality decision is."""
    seed: int = 42
    """Seed of the hash split and of the shuffle."""
