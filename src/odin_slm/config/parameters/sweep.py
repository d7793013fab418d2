"""Which trainings are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from odin_slm.config.parameters.base import Parameters
from odin_slm.config.parameters.training import TrainingParams


class RangeParams(Parameters):
    """A range of numbers that a sweep draws from."""

    low: float
    """Least value."""
    high: float
    """Greatest value."""
    log: bool = False
    """Draw evenly over the orders of magnitude."""
    integer: bool = False
    """Draw whole numbers."""

    @model_validator(mode="after")
    def _low_is_lower(self) -> RangeParams:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be less than high, and positive where log is on.")
        return self

    def examples(self) -> tuple[float, ...]:
        """Return both ends as they are drawn, and a number between them that is not whole where such are drawn."""
        if self.integer:
            return int(self.low), int(self.high)
        return self.low, self.high, self.low + (self.high - self.low) / math.pi


class SweepParams(Parameters):
    """Which trainings are compared."""

    experiment: str = Field(min_length=1)
    """Name of the experiment; the best configuration becomes the environment <experiment>-best."""
    search: Literal["grid", "tpe"] = "grid"
    """Every combination, or what the tree-structured Parzen estimator draws (Bergstra et al., 2011)."""
    space: dict[str, RangeParams | tuple[int | float | str | bool | None, ...]] = Field(min_length=1)
    """Key of a training parameter, as lora.r, -> its values, or for tpe a range."""
    trials: int | None = Field(default=None, ge=1)
    """Trainings; None is every combination of a grid."""
    train_records: int | None = Field(default=None, ge=1)
    """Train each on the first so many records; None on all."""
    seed: int = 42
    """Seed of what is drawn."""

    @model_validator(mode="after")
    def _space_is_of_training(self) -> SweepParams:
        ranges = [key for key, values in self.space.items() if isinstance(values, RangeParams)]
        if self.search == "grid" and ranges:
            raise ValueError(f"a grid needs values, not a range, for {', '.join(ranges)}.")
        if self.search == "tpe" and self.trials is None:
            raise ValueError("tpe needs a number of trials.")
        if empty := [key for key, values in self.space.items() if values == ()]:
            raise ValueError(f"there are no values to draw for {', '.join(empty)}.")
        for key, values in self.space.items():
            for value in values.examples() if isinstance(values, RangeParams) else values:
                _check_alone(key, value)
        return self

    def count(self) -> int:
        """Return the number of trainings."""
        combinations = math.prod(len(values) for values in self.space.values() if not isinstance(values, RangeParams))
        return min(self.trials or combinations, combinations) if self.search == "grid" else self.trials or 0


def _check_alone(key: str, value: Any) -> None:
    """Check a value by its own type; whether it goes with others is known when the experiment's training is."""
    try:
        changed(TrainingParams(), {key: value})
    except ValidationError as error:
        if any(found["loc"] for found in error.errors()):
            raise


def changed(params: TrainingParams, values: Mapping[str, Any]) -> TrainingParams:
    """Return the parameters with other values under dotted keys, checked again.

    Raises:
        ValueError: A key is none of theirs, or a value is out of range (pydantic's error names the key).
    """
    dumped = params.model_dump(mode="json")
    for key, value in values.items():
        group, _, last = key.rpartition(".")
        target = dumped.get(group) if group else dumped
        if not isinstance(target, dict) or last not in target:
            raise ValueError(f"training has no parameter {key!r}.")
        target[last] = value
    return TrainingParams.model_validate(dumped)
