"""The gates before a release: what shuts them, what is said, and what may be overridden."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

import release_values as values
from extraction_values import TASK
from odin_slm.config.parameters import PublishingParams
from odin_slm.core.errors import ReleaseError
from odin_slm.release.gates import Gate, card_gate, data_gate, model_gate, pass_gates

REASON = "A smoke test of the pipeline, not for use"


def judged(**changes: Any) -> Gate:
    options: dict[str, Any] = {
        "minimum_entity_f1": 0.5,
        "maximum_parse_failure_rate": 0.1,
        "promotion": None,
        "replayed": [{"id": "a", "reproduced": True}],
        "task": TASK,
    }
    results = changes.pop("results", values.evaluation_results(synthetic=True))
    return model_gate(results, **{**options, **changes})


def test_a_good_release_passes() -> None:
    gates = [data_gate(values.leakage(), values.quality()), judged(), card_gate([])]
    assert pass_gates(gates, {}) == {}


def test_a_better_model_may_pay_with_precision() -> None:
    figures = {"entity_f1_micro": {"value": 0.02}, "relation_precision_micro": {"value": -0.02}}
    assert not judged(promotion={"metrics": figures}).problems


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (data_gate(values.leakage(near_duplicates=2), values.quality()), "2 near_duplicates"),
        (data_gate(values.leakage(), values.quality("fail")), "record ids are unique"),
        (judged(minimum_entity_f1=0.9), r"0\.864, below publishing\.minimum_entity_f1=0\.900"),
        (judged(maximum_parse_failure_rate=0.01), "1.2% of the outputs"),
        (judged(lineage=["training_state.json: other data"]), "training_state.json: other data"),
        (judged(replayed=[{"id": "ade-7", "reproduced": False}]), "record ade-7 otherwise"),
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
    gates = [data_gate(values.leakage(pmids=1), values.quality("fail")), judged(minimum_entity_f1=1.0)]
    with pytest.raises(ReleaseError, match=r"(?s)1 pmids.*record ids are unique.*minimum_entity_f1"):
        pass_gates(gates, {})
    with pytest.raises(ReleaseError, match="gate model:"):
        pass_gates(gates, {"data": REASON})


def test_an_override_that_nothing_needed_is_not_shown() -> None:
    assert pass_gates([judged()], {"model": REASON}) == {}


def test_an_adapter_that_was_not_evaluated_is_judged_by_nothing_else() -> None:
    assert not judged(results=None, replayed=[]).problems


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
    with pytest.raises(ValidationError, match="replayed_predictions of at least 1"):
        PublishingParams(experiment="demo", push=True, model_repo="a/b", replayed_predictions=0)
