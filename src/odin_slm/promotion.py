"""Whether a model takes the champion's place: a paired test on the same frozen examples decides, and says why.

Paired approximate randomisation (Noreen, 1989, chapter 2; for F1: Yeh, 2000, "More accurate tests for the statistical
significance of result differences"): were both models equally good, each document's outputs could as well have been
the other model's. The p-value is the share of random exchanges that part the models at least as far as they are parted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odin_slm.errors import PredictionsError
from odin_slm.scoring import KINDS, difference

Rows = Sequence[Mapping[str, Any]]

HEADLINE = tuple(f"{kind}_f1_micro" for kind in KINDS)
"""The figures that decide; the others of :func:`odin_slm.scoring.difference` are reported."""


@dataclass(frozen=True)
class Champion:
    """The model in use, as far as a comparison needs it.

    Attributes:
        rows: Rows of its predictions file.
        version: Its number in the registry; None where a file of predictions stands for it.
        manifest_sha256: Hash of the manifest of its data, where it is known.
        problem: Why its predictions are not at hand; empty where they are.
    """

    rows: Rows
    version: str | None = None
    manifest_sha256: str | None = None
    problem: str = ""


def judge(
    predictions: Rows, champion: Champion | None, *, manifest_sha256: str | None, **options: Any
) -> dict[str, Any]:
    """Compare a model with the champion, where the two may be compared at all.

    A file of predictions that the user names must be of the same examples. The registry's champion may have been
    scored on other data: it then stays, and the decision says why.

    Args:
        predictions: Rows of the model's predictions file.
        champion: The model in use, or None.
        manifest_sha256: Hash of the manifest of the model's data, where it is known.
        **options: Of :func:`decide`.

    Returns:
        See :func:`decide`; and ``champion``: the version that was met, None where it is none of the registry's.

    Raises:
        PredictionsError: The predictions that the user names are not of the same examples.
    """
    number = champion.version if champion else None
    if champion is None or number is None:
        return {**decide(predictions, champion.rows if champion else None, **options), "champion": None}
    kept = {"decision": "keep", "significance": options["significance"], "metrics": None, "champion": number}
    if champion.problem:
        return {**kept, "why": champion.problem}
    if champion.manifest_sha256 != manifest_sha256:
        mine, theirs = ((sha or "unknown")[:12] for sha in (manifest_sha256, champion.manifest_sha256))
        return {**kept, "why": f"champion {number} was made of other data (manifest {theirs}, here {mine})"}
    try:
        return {**decide(predictions, champion.rows, **options), "champion": number}
    except PredictionsError as error:
        return {**kept, "why": error.what}


def decide(
    predictions: Rows, champion: Rows | None, *, significance: float, resamples: int, seed: int
) -> dict[str, Any]:
    """Compare a model's predictions with the champion's.

    A model is promoted when it is significantly better in one of the two headline figures, and significantly worse in
    neither. As two figures give chance two occasions, the p-values of gains are Holm's (1979); a loss counts by its
    plain p-value, which errs on the champion's side. Without a champion the first model is promoted.

    Args:
        predictions: Rows of the model's predictions file.
        champion: Rows of the champion's, or None.
        significance: p-value below which a difference counts.
        resamples: Random exchanges, and bootstrap resamples behind the intervals.
        seed: Seed of both.

    Returns:
        ``decision`` (promote or keep), ``why``, ``significance`` and, by metric, ``value`` (model minus champion), its
        95 % ``interval`` and ``p_value``; ``p_value_adjusted`` for the headline figures.

    Raises:
        PredictionsError: The rows are not of the same examples, or not of the same data.
    """
    if not champion:
        return {
            "decision": "promote",
            "why": "there is no champion to compare with",
            "significance": significance,
            "metrics": None,
        }
    metrics = difference(predictions, champion, resamples=resamples, seed=seed, name="champion")
    for name, p_value in _holm({name: metrics[name]["p_value"] for name in HEADLINE}).items():
        metrics[name]["p_value_adjusted"] = p_value
    gained = [name for name in HEADLINE if metrics[name]["value"] > 0]
    better = [name for name in gained if metrics[name]["p_value_adjusted"] < significance]
    worse = [name for name in HEADLINE if name not in gained and metrics[name]["p_value"] < significance]
    if worse:
        why = f"significantly worse in {_named(worse)}"
    elif better:
        why = f"significantly better in {_named(better)}" + (", worse in none" if len(better) < len(KINDS) else "")
    else:
        why = "no significant difference: the champion stays"
    return {
        "decision": "promote" if better and not worse else "keep",
        "why": why,
        "significance": significance,
        "metrics": metrics,
    }


def _holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for there being several (Holm, 1979, "A simple sequentially rejective procedure")."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def _named(metrics: Sequence[str]) -> str:
    return " and ".join(metric.split("_")[0] + " F1" for metric in metrics)
