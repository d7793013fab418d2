"""Confidences: fitting, applying, judging and drawing them, on predictions whose chances are known."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from sklearn.metrics import brier_score_loss

from odin_slm.tasks.extraction.calibration import FEWEST, assess, confidence, fit
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render
from odin_slm.tasks.extraction.metrics import evaluate
from odin_slm.tasks.extraction.reporting.confidence_figures import (
    draw_confidence,
    plot_reliability,
    plot_risk_coverage,
)
from odin_slm.tasks.extraction.reporting.report import render_report
from odin_slm.tasks.extraction.reporting.tracked import tracked_metrics

METHODS = ("isotonic", "temperature")


def rows(number: int, chance: Callable[[float], float], seed: int = 0, calibrator: Any = None) -> list[dict[str, Any]]:
    """Predictions of one entity and one relation each: said with p, right in ``chance(p)`` of the cases."""
    rng = random.Random(seed)
    made = []
    for index in range(number):
        p = rng.uniform(0.02, 0.98)
        right = rng.random() < chance(p)
        found = Extraction((Entity("Drug", "aspirin"),), (RelationTriple("aspirin", "causes", "rash"),))
        row: dict[str, Any] = {
            "id": f"ade-{index}",
            "document_id": f"ade-99000{index}",
            "source": "ade",
            "input": "Aspirin caused rash.",
            "gold": render(found if right else Extraction()),
            "prediction": render(found),
            "decoding": "constrained",
            "entities": [{"type": "Drug", "text": "Aspirin", "log_probability": math.log(p)}],
            "relations": [{"head": "aspirin", "type": "causes", "tail": "rash", "log_probability": math.log(p)}],
        }
        for kind, name in (("entity", "entities"), ("relation", "relations")):
            row[name][0]["confidence"] = confidence(calibrator, kind, math.log(p))
        made.append(row)
    return made


def too_sure(p: float) -> float:
    """A model that says 0.9 where it is right in half of the cases."""
    logit = math.log(p / (1 - p)) / 4
    return 1 / (1 + math.exp(-logit))


@pytest.mark.parametrize("method", METHODS)
def test_a_calibrator_makes_a_model_that_is_too_sure_say_what_holds(method: str) -> None:
    calibrator = json.loads(json.dumps(fit(rows(3000, too_sure, seed=1), method)))
    assert calibrator["entity"]["method"] == method
    for p in (0.05, 0.3, 0.5, 0.7, 0.95):
        assert confidence(calibrator, "entity", math.log(p)) == pytest.approx(too_sure(p), abs=0.08)
    found = assess(rows(3000, too_sure, seed=2, calibrator=calibrator), calibrator)
    assert found is not None
    for kind in ("entity", "relation"):
        assert found[kind]["before"]["ece"] > 0.12
        assert found[kind]["after"]["ece"] < 0.05
        assert found[kind]["after"]["brier"] < found[kind]["before"]["brier"]
        assert found[kind]["calibration"] == {"method": method, "records": 3000, "extractions": 3000, "why": ""}


def test_the_temperature_is_the_one_that_the_model_needs() -> None:
    assert fit(rows(6000, too_sure), "temperature")["entity"]["temperature"] == pytest.approx(4, rel=0.2)
    assert fit(rows(6000, lambda p: p), "temperature")["entity"]["temperature"] == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_calibration_keeps_the_order_and_stays_inside_0_and_1(method: str) -> None:
    calibrator = fit(rows(200, lambda p: p * p), method)
    confidences = [confidence(calibrator, "relation", value) for value in (-1e4, -30, -3, -1, -0.5, -0.1, -1e-9, 0.0)]
    assert confidences == sorted(confidences)
    assert 0 < confidences[0] < confidences[-1] < 1


def test_isotonic_is_the_library_s_own_between_its_ends() -> None:
    from sklearn.isotonic import IsotonicRegression

    validation = rows(400, too_sure, seed=3)
    raw = [math.exp(row["entities"][0]["log_probability"]) for row in validation]
    right = [float("aspirin" in row["gold"]) for row in validation]
    edge = 1 / 402
    library = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(raw, right)
    calibrator = fit(validation, "isotonic")
    for p in numpy.linspace(0.001, 0.999, 50):
        assert confidence(calibrator, "entity", math.log(p)) == pytest.approx(float(library.predict([p])[0]), abs=1e-4)


@pytest.mark.parametrize(
    ("validation", "method", "why"),
    [
        ([], "isotonic", "there is no validation split"),
        (rows(FEWEST - 1, too_sure), "isotonic", f"{FEWEST - 1} entities in {FEWEST - 1} validation records are fewer"),
        (rows(FEWEST, lambda _: 1.0), "temperature", f"{FEWEST} of {FEWEST} entities .* are right"),
        (rows(FEWEST, lambda _: 0.0), "isotonic", f"0 of {FEWEST} entities .* are right"),
        (rows(500, too_sure), "none", "switched off"),
    ],
)
def test_where_nothing_can_be_fitted_confidences_stay_raw_and_it_is_said(
    validation: list[dict[str, Any]], method: str, why: str
) -> None:
    calibrator = fit(validation, method)
    assert calibrator["entity"]["method"] == "none"
    assert re.search(why, calibrator["entity"]["why"])
    assert confidence(calibrator, "entity", math.log(0.3)) == pytest.approx(0.3)
    assert confidence(None, "entity", math.log(0.3)) == pytest.approx(0.3)


def test_what_an_output_repeats_counts_once_where_it_is_likeliest() -> None:
    [row] = rows(1, lambda _: 1.0)
    row["entities"] = [
        {"type": "Drug", "text": text, "log_probability": value, "confidence": math.exp(value)}
        for text, value in (("aspirin", -2.0), ("ASPIRIN ", -0.5), ("aspirin", -1.0))
    ]
    found = assess([row])
    assert found is not None
    assert (found["entity"]["n"], found["entity"]["right"]) == (1, 1)
    assert found["entity"]["before"]["bins"] == [{"confidence": pytest.approx(math.exp(-0.5)), "right": 1, "n": 1}]
    assert found["entity"]["calibration"]["method"] == "unknown"


def test_figures_of_reliability_by_hand_and_by_the_library() -> None:
    test = rows(500, too_sure, seed=5)
    found = assess(test)
    assert found is not None
    p = numpy.array([math.exp(row["entities"][0]["log_probability"]) for row in test])
    right = numpy.array(["aspirin" in row["gold"] for row in test])
    assert found["entity"]["before"]["brier"] == pytest.approx(brier_score_loss(right, p))
    ece = 0.0
    for low in numpy.arange(10) / 10:
        inside = (p >= low) & (p < low + 0.1)
        ece += inside.mean() * abs(p[inside].mean() - right[inside].mean())
    assert found["entity"]["before"]["ece"] == pytest.approx(ece)


def test_risk_and_coverage_by_hand() -> None:
    test = rows(4, lambda _: 1.0)
    for row, (value, right) in zip(test, [(-0.1, True), (-0.2, False), (-0.2, True), (-0.4, False)], strict=True):
        row["entities"][0].update(log_probability=value, confidence=math.exp(value))
        if not right:
            row["gold"] = render(Extraction())
    found = assess(test)
    assert found is not None
    points = [(p["coverage"], p["risk"]) for p in found["entity"]["risk_coverage"]]
    assert points == [(0.25, 0.0), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)], "equal ones are kept together"
    assert found["entity"]["aurc"] == pytest.approx(0.25 * 0 + 0.5 / 3 + 0.25 * 0.5)
    kept = [(row["at_most"], row["coverage"], row["risk"]) for row in found["entity"]["at_most"]]
    assert kept == [(risk, 0.25, 0.0) for risk in (0.02, 0.05, 0.1, 0.2)]


def test_what_can_be_kept_is_found_among_all_confidences() -> None:
    test = rows(500, lambda _: 1.0)
    for number, row in enumerate(test):
        row["entities"][0].update(log_probability=-number / 500, confidence=math.exp(-number / 500))
        if number % 7 == 6 and number > 100:
            row["gold"] = render(Extraction())
    found = assess(test)
    assert found is not None
    wrong = list(itertools.accumulate(number % 7 == 6 and number > 100 for number in range(500)))
    for row in found["entity"]["at_most"]:
        most = max(number for number in range(500) if wrong[number] / (number + 1) <= row["at_most"])
        assert row["coverage"] == (most + 1) / 500
    assert len(found["entity"]["at_most"]) == 4


def test_predictions_without_confidences_are_not_judged() -> None:
    bare = [{name: row[name] for name in ("id", "input", "gold", "prediction")} for row in rows(3, too_sure)]
    assert assess(bare) is None


def results(number: int, calibrator: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    test = rows(number, too_sure, seed=9, calibrator=calibrator)
    scored = evaluate(test, experiment="here", resamples=100)
    return {**scored, "confidence": assess(test, calibrator)}, test


@pytest.mark.slow
def test_the_report_and_the_run_show_them() -> None:
    scored, test = results(300, fit(rows(300, too_sure, seed=8), "isotonic"))
    page = render_report(scored, test, None)
    for words in (
        "isotonic, on 300 of 300 validation records",
        "Brier, raw",
        "AURC",
        'id="confidence"',
        "at most wrong",
    ):
        assert words in page
    metrics = tracked_metrics(scored)
    assert metrics["entity_ece"] == scored["confidence"]["entity"]["after"]["ece"]
    assert {"relation_raw_ece", "entity_brier", "relation_aurc"} <= set(metrics)
    scored["confidence"]["entity"]["calibration"] = {
        "method": "none", "records": 9, "extractions": 8, "why": "8 entities are few",
    }  # fmt: skip
    assert "none: 8 entities are few" in render_report(scored, test, None)


def test_the_report_does_without_them() -> None:
    scored, test = results(3, None)
    page = render_report({**scored, "confidence": None}, test, None)
    assert 'id="confidence"' not in page
    assert not [name for name in tracked_metrics({**scored, "confidence": None}) if "ece" in name]
    assert "no confidences" in plot_reliability({"confidence": None}).to_json()
    assert draw_confidence({"confidence": None}) == {}


def test_figures_show_both_kinds_before_and_after() -> None:
    scored, _ = results(300, fit(rows(300, too_sure, seed=8), "temperature"))
    names = [trace.name for trace in plot_reliability(scored).data]
    assert len(names) == 5
    assert sum("calibrated, ECE" in name for name in names) == 2
    assert [trace.name.split(",")[0] for trace in plot_risk_coverage(scored).data] == ["entities", "relations"]
    drawn = draw_confidence(scored)
    assert set(drawn) == {"reliability", "risk_coverage"}
    assert drawn == draw_confidence(scored), "equal values give equal bytes"
    assert "AURC" in drawn["risk_coverage"]


def test_outputs_that_list_nothing_are_shown_without_figures() -> None:
    scored, test = results(60, None)
    for row in test:
        row["relations"] = []
    scored["confidence"] = assess(test)
    assert scored["confidence"]["relation"]["n"] == 0
    assert "Confidence" in render_report(scored, test, None)
    assert len(draw_confidence(scored)) == 2
    assert len(plot_risk_coverage(scored).data) == 2
