"""Gates before a release: data, model, card, security and licence.

A gate is a list of problems, found by pure functions; none means that it is open. Three of them may be overridden one
by one, with a reason that the card then shows. Security and licence are other people's rights and have no override:
their problems are raised where they are found (:mod:`odin_slm.release.checks`, :mod:`odin_slm.hub.licensing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odin_slm.core.errors import ReleaseError
from odin_slm.release.checks import leak_counts
from odin_slm.tasks import Task

OVERRIDABLE = ("data", "model", "card")


@dataclass(frozen=True)
class Gate:
    """A gate and what keeps it shut.

    Attributes:
        name: One of :data:`OVERRIDABLE`.
        problems: What was found and what was expected, each with the file that says so.
        fix: The way out.
    """

    name: str
    problems: Sequence[str]
    fix: str


def data_gate(leakage: Mapping[str, Any], quality: Mapping[str, Any]) -> Gate:
    """Judge the data: nothing lies in two splits, and the quality decision is to pass."""
    problems = []
    leaks = {kind: count for kind, count in leak_counts(leakage).items() if count}
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
    return Gate("data", problems, fix)


def model_gate(
    results: Mapping[str, Any] | None,
    *,
    minimum_entity_f1: float,
    maximum_parse_failure_rate: float,
    promotion: Mapping[str, Any] | None,
    replayed: Sequence[Mapping[str, Any]],
    task: Task,
    lineage: Iterable[str] = (),
) -> Gate:
    """Judge the model by its own figures, by the champion's, and by what it says when it is asked again.

    Args:
        results: ``evaluation_results``; None for a model that was not evaluated.
        minimum_entity_f1: Least micro F1 over entities.
        maximum_parse_failure_rate: Largest share of outputs that break the format or do not end.
        promotion: The comparison with the champion on the same test set; None where there is none.
        task: What it was taught; it names the headline figures.
        replayed: Predictions that the adapter was asked for again, with ``id`` and ``reproduced``.
        lineage: What of adapter, data and figures does not belong together; see :mod:`odin_slm.release.provenance`.
    """
    problems = list(lineage)
    if results is not None:
        found = results["entity_metrics"]["micro"]["f1"]
        if found < minimum_entity_f1:
            problems.append(
                f"evaluation_results.json: entity F1 (micro) is {found:.3f}, below "
                f"publishing.minimum_entity_f1={minimum_entity_f1:.3f}"
            )
        rate = results["output_quality"]["parse_failure_rate"]
        if rate > maximum_parse_failure_rate:
            problems.append(
                f"evaluation_results.json: {rate:.1%} of the outputs break the format or do not end, more than "
                f"publishing.maximum_parse_failure_rate={maximum_parse_failure_rate:.3f}"
            )
        compared = (promotion or {}).get("metrics") or {}
        for metric in task.headline:  # precision and recall pay for one another
            change = compared.get(metric.name)
            if change and metric.gain(change["value"]) < 0:
                where = "below" if metric.higher_is_better else "above"
                problems.append(f"promotion.json: {metric.name} is {abs(change['value']):.4f} {where} the champion's")
    for answer in replayed:
        if not answer["reproduced"]:
            problems.append(
                f"predictions.jsonl: asked again, the adapter answers record {answer['id']} otherwise than the figures "
                "were measured on"
            )
    fix = (
        "Train and evaluate again (kedro run --pipelines training,evaluation, without test_data), so that figures, "
        "data and adapter belong together; or train longer, or on more data."
    )
    if any(not answer["reproduced"] for answer in replayed):
        fix += " (Where the evaluation ran on another machine, or in bf16, rounding alone can change an answer.)"
    return Gate("model", problems, fix)


def card_gate(problems: Sequence[str]) -> Gate:
    """Judge a card by what :func:`odin_slm.release.checks.validate_card` found."""
    return Gate("card", [f"README.md: {problem}" for problem in problems], "Mend the parameters of conf/.")


def pass_gates(gates: Sequence[Gate], override: Mapping[str, str]) -> dict[str, str]:
    """Let a release through.

    Args:
        gates: What was judged.
        override: Gate name -> reason why it is to count as open.

    Returns:
        The overrides that were needed.

    Raises:
        ReleaseError: A gate is shut; with everything that is wrong, and what to do.
    """
    shut = [gate for gate in gates if gate.problems and gate.name not in override]
    if shut:
        lines = "\n".join(f"  - {problem}" for gate in shut for problem in gate.problems)
        names = " and ".join(gate.name for gate in shut)
        raise ReleaseError(
            f"refused:\n{lines}\n",
            where=f"gate {names}",
            fix=" ".join(
                f'{gate.fix} Or say why it does not matter, and the card shows it: publishing.override.{gate.name}="…".'
                for gate in shut
            ),
        )
    return {gate.name: override[gate.name] for gate in gates if gate.problems}
