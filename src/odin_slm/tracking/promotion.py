"""Whether a model takes the champion's place: a paired test on the same frozen examples decides, and says why.

Paired approximate randomisation (Noreen, 1989, chapter 2; for F1: Yeh, 2000, "More accurate tests for the statistical
significance of result differences"): were both models equally good, each document's outputs could as well have been
the other model's. The p-value is the share of random exchanges that part the models at least as far as they are parted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from odin_slm.core.hashing import sha256_of_json
from odin_slm.tasks import Task
from odin_slm.tasks.criteria import holm
from odin_slm.tasks.metric import Metric
from odin_slm.tasks.rows import not_comparable

Rows = Sequence[Mapping[str, Any]]

_WAY_OUT = "; promotion.rescore=true, or kedro champion promote --rescore, compares the two on this test set"


@dataclass(frozen=True)
class Champion:
    """The model in use, as far as a comparison needs it.

    Attributes:
        rows: Rows of its predictions file.
        version: Its number in the registry; None where a file of predictions stands for it.
        manifest_sha256: Hash of the manifest of its data, where it is known.
        problem: Why its predictions are not at hand; empty where they are.
        rescored: Whether the rows are what it said to another model's test texts.
        model: Fetches the model itself; None where a file of predictions stands for it.
        vacant: Why nobody is champion any more; the place is then free for a reason, and no test fills it.
    """

    rows: Rows
    version: str | None = None
    manifest_sha256: str | None = None
    problem: str = ""
    rescored: bool = False
    model: Callable[[], Any] | None = None
    vacant: str = ""


def obstacle(predictions: Rows, champion: Champion, manifest_sha256: str | None) -> str:
    """Return why the champion's predictions cannot be compared with a model's; empty where they can."""
    if champion.problem:
        return champion.problem.removesuffix(".")
    if champion.manifest_sha256 != manifest_sha256:
        mine, theirs = ((sha or "unknown")[:12] for sha in (manifest_sha256, champion.manifest_sha256))
        return f"champion {champion.version} was made of other data (manifest {theirs}, here {mine})"
    if why := not_comparable(predictions, champion.rows, "champion"):
        return why
    here, there = (predictions[0].get("decoding", "free"), champion.rows[0].get("decoding", "free"))
    if champion.version is not None and here != there:  # what a grammar adds to a score is no merit of the model
        return f"champion {champion.version} was scored with {there} decoding, this model with {here}"
    return ""


def rescored(
    champion: Champion | None, answers: Rows, predictions: Rows, manifest_sha256: str | None
) -> Champion | None:
    """Return the champion with its answers to a model's test texts, where its own predictions cannot be compared.

    Args:
        champion: The champion, or None.
        answers: Rows of :func:`odin_slm.tracking.rescoring.rescore`, with ``champion``: the version that they are of.
            Those of another version, which was champion when they were made, are left aside.
        predictions: The model's own rows.
        manifest_sha256: Hash of the manifest of the model's data.
    """
    if champion is None or not answers or not obstacle(predictions, champion, manifest_sha256):
        return champion
    if {row["champion"] for row in answers} != {champion.version}:
        return champion
    return replace(champion, rows=answers, manifest_sha256=manifest_sha256, problem="", rescored=True)


def judge(
    predictions: Rows, champion: Champion | None, task: Task, *, manifest_sha256: str | None, **options: Any
) -> dict[str, Any]:
    """Compare a model with the champion, where the two may be compared at all.

    A file of predictions that the user names must be of the same examples. The registry's champion may have been
    scored on other data, or with another decoding: it then stays, and the decision says why.

    Args:
        predictions: Rows of the model's predictions file.
        champion: The model in use, or None.
        task: What scores.
        manifest_sha256: Hash of the manifest of the model's data, where it is known.
        **options: Of :func:`decide`.

    Returns:
        See :func:`decide`; and ``champion``: the version that was met, None where it is none of the registry's;
        ``rescored``: whether it was asked for these texts for the comparison; ``predictions_sha256`` of the model.

    Raises:
        PredictionsError: The predictions that the user names are not of the same examples.
    """
    number = champion.version if champion else None
    own = {"predictions_sha256": rows_digest(predictions)}
    if champion and champion.vacant:
        kept = {"decision": "keep", "why": champion.vacant, "metrics": None}
        return {**kept, "significance": options["significance"], "champion": None, "rescored": False, **own}
    if champion is None or number is None:
        decision = decide(predictions, champion.rows if champion else None, task, **options)
        return {**decision, "champion": None, "rescored": False, **own}
    met = {"champion": number, "rescored": champion.rescored, **own}
    if why := obstacle(predictions, champion, manifest_sha256):
        kept = {"decision": "keep", "why": f"{why}{_WAY_OUT if champion.model else ''}", "metrics": None}
        return {**kept, "significance": options["significance"], **met}
    return {**decide(predictions, champion.rows, task, **options), **met}


def conclude(decision: Mapping[str, Any], *, force: bool, reason: str) -> dict[str, Any]:
    """Return a decision with ``forced``: the test's own, or somebody's who takes the responsibility."""
    if force:
        return {**decision, "decision": "promote", "why": reason.strip(), "forced": True}
    return {**decision, "forced": False}


def rows_digest(rows: Rows) -> str:
    """Return the SHA-256 of a predictions file's rows, whatever the bytes of the file."""
    return sha256_of_json(list(rows))


def decide(
    predictions: Rows, champion: Rows | None, task: Task, *, significance: float, resamples: int, seed: int
) -> dict[str, Any]:
    """Compare a model's predictions with the champion's.

    A model is promoted when it is significantly better in one of the task's headline figures, and significantly worse
    in none. As several figures give chance several occasions, the p-values of gains are Holm's (1979); a loss counts by
    its plain p-value, which errs on the champion's side. Without a champion the first model is promoted.

    Args:
        predictions: Rows of the model's predictions file.
        champion: Rows of the champion's, or None.
        task: What scores; it names the headline figures and their direction.
        significance: p-value below which a difference counts.
        resamples: Random exchanges, and bootstrap resamples behind the intervals.
        seed: Seed of both.

    Returns:
        ``decision`` (promote or keep), ``why``, ``significance``; ``metrics``: by metric ``value`` (model minus
        champion), its 95 % ``interval`` and ``p_value``, ``p_value_adjusted`` for the headline figures; ``figures``:
        these of the model and of the champion.

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
    metrics = task.difference(predictions, champion, resamples=resamples, seed=seed, name="champion")
    own, champions = task.headline_values(predictions), task.headline_values(champion)
    for name, p_value in holm({metric.name: metrics[metric.name]["p_value"] for metric in task.headline}).items():
        metrics[name]["p_value_adjusted"] = p_value
    gained = [metric for metric in task.headline if metric.gain(metrics[metric.name]["value"]) > 0]
    better = [metric for metric in gained if metrics[metric.name]["p_value_adjusted"] < significance]
    worse = [
        metric for metric in task.headline if metric not in gained and metrics[metric.name]["p_value"] < significance
    ]
    if worse:
        why = f"significantly worse in {_named(worse)}"
    elif better:
        why = f"significantly better in {_named(better)}" + (
            ", worse in none" if len(better) < len(task.headline) else ""
        )
    else:
        why = "no significant difference: the champion stays"
    return {
        "decision": "promote" if better and not worse else "keep",
        "why": why,
        "significance": significance,
        "metrics": metrics,
        "figures": {metric.name: [own[metric.name], champions[metric.name]] for metric in task.headline},
    }


def _named(metrics: Sequence[Metric]) -> str:
    return " and ".join(metric.title for metric in metrics)
