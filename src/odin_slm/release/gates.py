"""Gates before a release: data, model, card, security and licence.

A gate is a list of problems, found by pure functions; none means that it is open. Three of them may be overridden one
by one, with a reason that the card then shows. Security and licence are other people's rights and have no override:
their problems are raised where they are found (:mod:`odin_slm.release.checks`, :mod:`odin_slm.hub.licensing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from odin_slm.core.errors import ReleaseError
from odin_slm.release.checks import leak_counts
from odin_slm.release.facts import DataReports, ModelEvidence
from odin_slm.tasks import Task
from odin_slm.tasks.metric import Metric


@dataclass(frozen=True)
class Gate:
    """A gate and what keeps it shut.

    Attributes:
        name: ``data``, ``model`` or ``card``.
        problems: What was found and what was expected, each with the file that says so.
        fix: The way out.
        judged: The values that were looked at.
    """

    name: str
    problems: Sequence[str]
    fix: str
    judged: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Thresholds:
    """What is asked of a model.

    Attributes:
        headline: The task's metrics that decide; none may be worse than the champion's.
        minimum_scores: Metric -> the least that will do; the most, for one of which less is better.
        maximum_parse_failure_rate: Largest share of outputs that break the format or do not end.
    """

    headline: Sequence[Metric]
    minimum_scores: Mapping[Metric, float]
    maximum_parse_failure_rate: float


def thresholds(task: Task, minimum_scores: Mapping[str, float], maximum_parse_failure_rate: float) -> Thresholds:
    """Return what is asked of a model of a task.

    Raises:
        ReleaseError: A minimum is set for what is no headline metric of the task.
    """
    metrics = {metric.name: metric for metric in task.headline}
    if unknown := sorted(set(minimum_scores) - set(metrics)):
        raise ReleaseError(
            f"the task {task.name} has no metric {', '.join(unknown)}; it has {', '.join(metrics)}.",
            where="publishing.minimum_scores",
            fix="Name one of these.",
        )
    least = {metrics[name]: value for name, value in minimum_scores.items()}
    return Thresholds(task.headline, least, maximum_parse_failure_rate)


def data_gate(reports: DataReports) -> Gate:
    """Judge the data: nothing lies in two splits, and the quality decision is to pass."""
    counts, quality = leak_counts(reports.leakage), reports.quality
    problems = []
    leaks = {kind: count for kind, count in counts.items() if count}
    if leaks:
        listed = ", ".join(f"{count} {kind}" for kind, count in leaks.items())
        problems.append(f"leakage.json: something lies in two splits ({listed}), so the test figures mean nothing")
    if quality["decision"] != "pass":
        failed = quality["failed_critical"] or [check["name"] for check in quality["checks"] if not check["passed"]]
        problems.append(
            f"quality.json: refused with {quality['score']} points (profile {quality['profile']} asks for "
            f"{quality['minimum_score']}); failed: {'; '.join(failed)}"
        )
    fix = "Make the data again with kedro run --pipelines data; quality.json names the way out of each check."
    judged = {"leaks": counts, "quality": {key: quality[key] for key in ("decision", "score", "minimum_score")}}
    return Gate("data", problems, fix, judged)


def model_gate(evidence: ModelEvidence, limits: Thresholds, provenance: Iterable[str] = ()) -> Gate:
    """Judge the model by its own figures, by the champion's, and by what it answers when it is asked again.

    Args:
        evidence: What is known of it.
        limits: What is asked of it.
        provenance: What of adapter, data and figures does not belong together; see
            :mod:`odin_slm.release.provenance`.
    """
    problems = list(provenance)
    judged: dict[str, Any] = {"provenance": not problems}
    results, again = evidence.results, [] if evidence.results is None else evidence.reproduced
    if results is not None:
        problems += _score_problems(results, limits)
        problems += _champion_problems(evidence.promotion, limits)
        judged["scores"] = {metric.name: metric.value(results) for metric in limits.headline}
        judged["parse_failure_rate"] = results["output_quality"]["parse_failure_rate"]
    different = [answer["id"] for answer in again if not answer["reproduced"]]
    judged["reproduced"] = {"predictions": len(again), "different": different}
    problems += [
        f"predictions.jsonl: asked again, the adapter answers record {name} otherwise than the figures were measured on"
        for name in different
    ]
    fix = (
        "Train and evaluate again (kedro run --pipelines training,evaluation, without test_data), so that figures, "
        "data and adapter belong together; or train longer, or on more data."
    )
    if different:
        fix += " (Where the evaluation ran on another machine, or in bf16, rounding alone can change an answer.)"
    return Gate("model", problems, fix, judged)


def _score_problems(results: Mapping[str, Any], limits: Thresholds) -> Iterator[str]:
    for metric, limit in limits.minimum_scores.items():
        found = metric.value(results)
        if metric.gain(found - limit) < 0:
            where = "below" if metric.higher_is_better else "above"
            yield (
                f"evaluation_results.json: {metric.title} is {found:.3f}, {where} "
                f"publishing.minimum_scores.{metric.name}={limit:.3f}"
            )
    rate = results["output_quality"]["parse_failure_rate"]
    if rate > limits.maximum_parse_failure_rate:
        yield (
            f"evaluation_results.json: {rate:.1%} of the outputs break the format or do not end, more than "
            f"publishing.maximum_parse_failure_rate={limits.maximum_parse_failure_rate:.3f}"
        )


def _champion_problems(promotion: Mapping[str, Any] | None, limits: Thresholds) -> Iterator[str]:
    compared = (promotion or {}).get("metrics") or {}
    for metric in limits.headline:  # precision and recall pay for one another
        change = compared.get(metric.name)
        if change and metric.gain(change["value"]) < 0:
            where = "below" if metric.higher_is_better else "above"
            yield f"promotion.json: {metric.name} is {abs(change['value']):.4f} {where} the champion's"


def card_gate(problems: Sequence[str]) -> Gate:
    """Judge a card by what :func:`odin_slm.release.checks.validate_card` found."""
    return Gate("card", [f"README.md: {problem}" for problem in problems], "Mend the parameters of conf/.")


def judgement(gates: Iterable[Gate], override: Mapping[str, str]) -> dict[str, Any]:
    """Return what was judged, as ``gates.json`` keeps it.

    Args:
        gates: What was judged.
        override: Gate name -> reason why it is to count as open.

    Returns:
        By gate: ``problems``, ``fix``, ``judged``, and ``overridden``: the reason, where one was needed.
    """
    return {
        gate.name: {
            "problems": list(gate.problems),
            "fix": gate.fix,
            "judged": dict(gate.judged),
            "overridden": override.get(gate.name) if gate.problems else None,
        }
        for gate in gates
    }


def require_open(judged: Mapping[str, Any]) -> dict[str, str]:
    """Let a release through.

    Returns:
        The overrides that were needed.

    Raises:
        ReleaseError: A gate is shut; with everything that is wrong, and what to do.
    """
    shut = {name: gate for name, gate in judged.items() if gate["problems"] and not gate["overridden"]}
    if shut:
        lines = "\n".join(f"  - {problem}" for gate in shut.values() for problem in gate["problems"])
        raise ReleaseError(
            f"refused:\n{lines}\n",
            where=f"gate {' and '.join(shut)}",
            fix=" ".join(
                f'{gate["fix"]} Or say why it does not matter, and the card shows it: publishing.override.{name}="…".'
                for name, gate in shut.items()
            ),
        )
    return {name: gate["overridden"] for name, gate in judged.items() if gate["problems"]}
