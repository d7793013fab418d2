"""From records to one leak-free dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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
    folds: int = Field(default=0, ge=0)
    """How many folds a cross-validation has, at least two; it sets official splits and test_ratio aside. 0: none."""
    fold: int = Field(default=0, ge=0)
    """Which of them tests, from 0 on."""
    fold_by: Literal["abstract", "document"] = "abstract"
    """What lies in one fold: abstract, as in every split here; document, so that sentences of one abstract lie in
    several, as in ADE's published folds: the splits leak then, and a release is refused."""
    near_duplicate: float = Field(default=0.7, ge=0.05, le=1.0)
    """Jaccard similarity of character 5-grams from which two texts must stay together."""
    quality_profile: Literal["exploration", "ml-training", "publishing"] = "ml-training"
    """How strict the quality decision is."""
    seed: int = 42
    """Seed of the hash split and of the shuffle."""

    @model_validator(mode="after")
    def _one_of_the_folds(self) -> CombinationParams:
        if self.folds == 1:
            raise ValueError("folds: name 2 or more, or 0 for none.")
        if self.fold >= max(self.folds, 1):
            known = f"from 0 to {self.folds - 1}" if self.folds else "0, as folds is 0"
            raise ValueError(f"fold: it is {self.fold}; expected {known}.")
        return self

    @property
    def may_leak(self) -> bool:
        """Whether the split is one that leaks and is made all the same, to compare with published figures."""
        return self.folds > 0 and self.fold_by == "document"
