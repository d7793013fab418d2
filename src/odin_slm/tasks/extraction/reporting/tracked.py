"""Evaluation results as the metrics of a tracked run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tracked_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Flatten evaluation results to the metrics of a run.

    Args:
        results: The value of ``evaluation_results``; see :func:`odin_slm.tasks.extraction.metrics.evaluate`.

    Returns:
        ``entity_f1_micro``, ``entity_precision_macro``, … and the same for relations; ``…_low`` and ``…_high`` for the
        ends of an interval; ``entity_ece``, ``entity_brier``, ``entity_aurc`` and ``entity_raw_…`` (before calibration)
        of confidences; rates of faulty outputs; ``free_…`` for the second, free decoding, ``base_…`` and
        ``base_free_…`` for the base model; ``difference_…`` and ``free_difference_…`` for fine-tuned minus base.
    """
    base = results.get("base") or {}
    kinds = {"": results, "free_": results.get("free"), "base_": base, "base_free_": base.get("free")}
    metrics = {
        f"{kind}{name}": value for kind, values in kinds.items() for name, value in _scores(values or {}).items()
    }
    for key in ("difference", "free_difference"):
        for name, difference in (results.get(key) or {}).items():
            metrics[f"{key}_{name}"] = difference["value"]
            metrics |= _ends(f"{key}_{name}", difference["interval"])
    for kind, found in (results.get("confidence") or {}).items():
        measures = {"ece": found["after"]["ece"], "brier": found["after"]["brier"], "aurc": found["aurc"]}
        measures |= {"raw_ece": found["before"]["ece"], "raw_brier": found["before"]["brier"]}
        metrics |= {f"{kind}_{name}": value for name, value in measures.items() if value is not None}
    metrics["test_examples"] = results["test_set"]["examples"]
    return {name: float(value) for name, value in metrics.items()}


def _scores(results: Mapping[str, Any]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for kind in ("entity", "relation"):
        for average in ("micro", "macro"):
            values = results.get(f"{kind}_metrics", {}).get(average, {})
            for measure in ("precision", "recall", "f1"):
                if measure in values:
                    scores[f"{kind}_{measure}_{average}"] = values[measure]
    for name, interval in (results.get("intervals") or {}).items():
        scores |= _ends(name, interval)
    for name, value in (results.get("output_quality") or {}).items():
        if name.endswith("_rate"):
            scores[name] = value
    return scores


def _ends(name: str, interval: Any) -> dict[str, float]:
    low, high = interval
    return {f"{name}_low": low, f"{name}_high": high}
