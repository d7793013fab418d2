"""The gates before a release: what shuts them, what is said, and what may be overridden."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import ValidationError

import release_values as values
from extraction_values import TASK
from odin_slm.config.parameters import PublishingParams
from odin_slm.core.errors import ReleaseError
from odin_slm.core.hashing import canonical_json
from odin_slm.release.facts import DataReports, ModelEvidence
from odin_slm.release.gates import (
    Gate,
    Thresholds,
    card_gate,
    data_gate,
    judgement,
    model_gate,
    require_open,
    thresholds,
)
from odin_slm.tasks.metric import Metric
from tasks.another.first_word import FirstWordTask

REASON = "A smoke test of the pipeline, not for use"


def judged(
    results: Any = values.evaluation_results(synthetic=True),  # noqa: B008
    *,
    minimum: Mapping[str, float] = MappingProxyType({"entity_f1_micro": 0.5}),
    maximum_parse_failure_rate: float = 0.1,
    promotion: Any = None,
    reproduced: Any = ({"id": "a", "reproduced": True},),
    provenance: Any = (),
) -> Gate:
    evidence = ModelEvidence({}, results, [], promotion, reproduced)
    return model_gate(evidence, thresholds(TASK, minimum, maximum_parse_failure_rate), provenance)


def judged_data(*, leakage: Any = None, quality: Any = None) -> Gate:
    return data_gate(DataReports({}, leakage or values.leakage(), quality or values.quality(), {}))


def pass_gates(gates: Sequence[Gate], override: Mapping[str, str]) -> dict[str, str]:
    return require_open(json.loads(canonical_json(judgement(gates, override))))


def test_a_good_release_passes() -> None:
    gates = [judged_data(), judged(), card_gate([])]
    assert pass_gates(gates, {}) == {}


def test_a_better_model_may_pay_with_precision() -> None:
    figures = {"entity_f1_micro": {"value": 0.02}, "relation_precision_micro": {"value": -0.02}}
    assert not judged(promotion={"metrics": figures}).problems


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (judged_data(leakage=values.leakage(near_duplicates=2)), "2 near_duplicates"),
        (judged_data(leakage=values.leakage(test_questions=1, leaks={"test_questions": [{}]})), "1 test_questions"),
        (judged_data(quality=values.quality("fail")), "record ids are unique"),
        (
            judged(minimum={"entity_f1_micro": 0.9}),
            r"entity F1 is 0\.864, below publishing\.minimum_scores\.entity_f1_micro=0\.900",
        ),
        (judged(maximum_parse_failure_rate=0.01), "1.2% of the outputs"),
        (judged(provenance=["training_state.json: other data"]), "training_state.json: other data"),
        (judged(reproduced=[{"id": "ade-7", "reproduced": False}]), "record ade-7 otherwise"),
        (
            judged(promotion={"metrics": {"entity_f1_micro": {"value": -0.02}, "relation_f1_micro": {"value": 0.1}}}),
            "entity_f1_micro is 0.0200 below the champion's",
        ),
        (card_gate(["license: found None"]), "README.md: license: found None"),
    ],
)
def test_a_shut_gate_names_the_fault_and_the_way_out(gate: Gate, expected: str) -> None:
    with pytest.raises(ReleaseError, match=expected) as refusal:
        pass_gates([gate], {})
    assert f"gate {gate.name}" in str(refusal.value)
    assert f"publishing.override.{gate.name}" in str(refusal.value)
    assert pass_gates([gate], {gate.name: REASON}) == {gate.name: REASON}


def test_all_shut_gates_are_told_at_once() -> None:
    gates = [
        judged_data(leakage=values.leakage(pmids=1), quality=values.quality("fail")),
        judged(minimum={"entity_f1_micro": 1.0}),
    ]
    with pytest.raises(ReleaseError, match=r"(?s)1 pmids.*record ids are unique.*minimum_scores"):
        pass_gates(gates, {})
    with pytest.raises(ReleaseError, match="gate model:"):
        pass_gates(gates, {"data": REASON})


def test_an_override_that_nothing_needed_is_not_shown() -> None:
    assert pass_gates([judged()], {"model": REASON}) == {}


def test_an_adapter_that_was_not_evaluated_is_judged_by_nothing_else() -> None:
    assert not judged(results=None, reproduced=[]).problems


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"security": REASON}, "security cannot be overridden"),
        ({"licence": REASON}, "licence cannot be overridden"),
        ({"quality": REASON}, "no gate 'quality'; data, model and card"),
        ({"data": "  why  not "}, "at least 10 characters"),
    ],
)
def test_security_and_licence_have_no_override_and_a_reason_is_needed(override: dict[str, str], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        PublishingParams(experiment="demo", override=override)


def test_a_push_says_where_to() -> None:
    with pytest.raises(ValidationError, match="model_repo=OWNER/NAME"):
        PublishingParams(experiment="demo", push=True)
    with pytest.raises(ValidationError, match="reproduced_predictions of at least 1"):
        PublishingParams(experiment="demo", push=True, model_repo="a/b", reproduced_predictions=0)


def test_a_minimum_is_set_for_a_metric_of_the_task_alone() -> None:
    with pytest.raises(ReleaseError, match=r"minimum_scores: the task extraction has no metric f1; it has entity_f1_"):
        thresholds(TASK, {"f1": 0.5}, 0.1)
    with pytest.raises(ReleaseError, match=r"first_word has no metric entity_f1_micro; it has accuracy\."):
        thresholds(FirstWordTask(), {"entity_f1_micro": 0.5}, 0.1)


def test_less_is_better_where_a_metric_says_so() -> None:
    error = Metric("error_rate", "error rate", ("error_rate",), higher_is_better=False)
    results = {"error_rate": 0.2, "output_quality": {"parse_failure_rate": 0.0}}
    evidence = ModelEvidence({}, results, [], {"metrics": {"error_rate": {"value": 0.05}}}, [])
    limits = Thresholds([error], {error: 0.1}, 0.1)
    assert model_gate(evidence, limits).problems == [
        "evaluation_results.json: error rate is 0.200, above publishing.minimum_scores.error_rate=0.100",
        "promotion.json: error_rate is 0.0500 above the champion's",
    ]
    better = replace(evidence, results={**results, "error_rate": 0.1}, promotion=None)
    assert not model_gate(better, limits).problems


def test_the_judgement_tells_what_was_looked_at() -> None:
    judged_both = judgement(
        [judged_data(), judged(minimum={"entity_f1_micro": 0.9})], {"model": REASON, "data": REASON}
    )
    assert judged_both["data"]["judged"]["quality"] == {"decision": "pass", "score": 97.25, "minimum_score": 80.0}
    assert judged_both["data"]["overridden"] is None, "nothing needed it"
    model = judged_both["model"]
    assert model["overridden"] == REASON
    assert model["judged"]["scores"] == {"entity_f1_micro": 0.8642, "relation_f1_micro": 0.7531}
    assert model["judged"]["reproduced"] == {"predictions": 1, "different": []}
