"""What an experiment has shown: each claim decided by a paired test of fine-tuned against base, and none by eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from odin_slm.tasks.metric import Metric


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for there being several (Holm, 1979, "A simple sequentially rejective procedure")."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def improvements(results: Mapping[str, Any], metrics: Sequence[Metric], *, significance: float) -> list[dict[str, Any]]:
    """Say of each figure whether fine-tuning has improved it.

    It has where it moved in the right direction, the 95 % interval of the paired difference excludes 0, and the paired
    test's p-value, adjusted for the number of figures, is below the significance level.

    Args:
        results: ``evaluation_results``.
        metrics: The figures.
        significance: That level.

    Returns:
        For each: ``metric``, ``title``, ``higher_is_better``, ``base``, ``fine_tuned``; ``improvement`` and its
        ``interval``, such that more is better; ``p_value``, ``p_value_adjusted``, ``met``, and ``why``. Without
        predictions of the base there is nothing but ``met: false`` and the reason.
    """
    difference, base = results.get("difference"), results.get("base")
    if not difference or not base:
        why = f"not tested: {results['comparison']}"
        return [{"metric": metric.name, "title": metric.title, "met": False, "why": why} for metric in metrics]
    adjusted = holm({metric.name: difference[metric.name]["p_value"] for metric in metrics})
    return [
        {
            "metric": metric.name,
            "title": metric.title,
            "higher_is_better": metric.higher_is_better,
            "base": metric.value(base),
            "fine_tuned": metric.value(results),
            **_verdict(metric, difference[metric.name], adjusted[metric.name], significance),
        }
        for metric in metrics
    ]


def _verdict(metric: Metric, change: Mapping[str, Any], adjusted: float, significance: float) -> dict[str, Any]:
    gain = metric.gain(change["value"])
    interval = sorted(metric.gain(bound) for bound in change["interval"])
    sure = adjusted < significance and not interval[0] <= 0 <= interval[1]
    why = "no difference that the test could tell from chance"
    if sure:
        why = "better than the base" if gain > 0 else "worse than the base"
    return {
        "improvement": gain,
        "interval": interval,
        "p_value": change["p_value"],
        "p_value_adjusted": adjusted,
        "met": sure and gain > 0,
        "why": why,
    }
