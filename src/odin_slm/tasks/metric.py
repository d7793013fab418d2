"""A figure by which models are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A figure that decides which model is better.

    Attributes:
        name: Its name in MLflow, in ``intervals`` and in ``difference``.
        title: What people call it.
        path: Keys that lead to it in ``evaluation_results``.
        higher_is_better: Its direction.
    """

    name: str
    title: str
    path: tuple[str, ...]
    higher_is_better: bool = True

    def value(self, scores: Mapping[str, Any]) -> float:
        """Return the figure of one model and decoding."""
        found: Any = scores
        for key in self.path:
            found = found[key]
        return float(found)

    def with_interval(self, scores: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
        """Return the figure and the ends of its 95 % interval, by the names that they have in MLflow."""
        low, high = scores["intervals"][self.name]
        name = f"{prefix}{self.name}"
        return {name: self.value(scores), f"{name}_low": low, f"{name}_high": high}

    def gain(self, difference: float) -> float:
        """Return a difference such that more is better."""
        return difference if self.higher_is_better else -difference
