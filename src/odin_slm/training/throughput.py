"""Tokens per second, out of the figures that the Trainer reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

OnLog = Callable[[int, Mapping[str, float]], None]


def with_throughput(tokens: int, on_log: OnLog) -> OnLog:
    """Return a function that adds ``tokens_per_second`` since the last line to a step's figures.

    Args:
        tokens: Tokens of the training split; figures name the passes over it so far as ``epoch``.
        on_log: Takes the step and its figures.
    """
    since: float | None = None
    passes = 0.0

    def log(step: int, figures: Mapping[str, float]) -> None:
        nonlocal since, passes
        now = time.monotonic()
        if "eval_loss" in figures:  # the time since the last line was validation's
            since = None if since is None else since + figures.get("eval_runtime", 0.0)
        elif "epoch" in figures:
            if since is not None and now > since and figures["epoch"] > passes:
                figures = {**figures, "tokens_per_second": (figures["epoch"] - passes) * tokens / (now - since)}
            since, passes = now, figures["epoch"]
        on_log(step, figures)

    return log
