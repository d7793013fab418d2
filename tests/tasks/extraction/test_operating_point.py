"""The fit of an operating point on rows written by hand, and what it leaves out of an output."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, parse, render
from odin_slm.tasks.extraction.operating_point import BIASES, exploration, fit, kept
from odin_slm.tasks.extraction.reporting.operating_figures import draw_operating_point, plot_operating_point
from odin_slm.tasks.operating_point import KEY

RAW = {"entity": {"method": "none"}, "relation": {"method": "none"}}
CHANCE = {True: -0.1, False: -1.2}
NOTHING = render(Extraction())


def explored(names: list[str], odds: list[float], chances: list[float]) -> dict[str, Any]:
    """A reading: entities, the log-odds of ending after the header and after each, and their log-probabilities."""
    text = render(Extraction(tuple(Entity("Drug", name) for name in names)))
    tail = [None] * 3
    return {"text": text, "ends": [*odds, *tail], "lines": [0.0, *chances, *tail]}


def row(gold: list[str], reading: dict[str, Any], relations: dict[str, Any] | None = None) -> dict[str, Any]:
    gold_text = render(Extraction(tuple(Entity("Drug", name) for name in gold)))
    readings = [reading, relations] if relations else [reading, reading]
    return {"gold": gold_text, "prediction": reading["text"], "explored": readings}


def rows(number: int = 40) -> list[dict[str, Any]]:
    """Lists whose third and fourth entity are right but come after an end; the fifth is wrong, and unlikely."""
    names = ["a", "b", "c", "d", "e"]
    chances = [-0.1, -0.1, -0.3, -0.3, -2.0]
    return [row(names[:4], explored(names, [-9.0, -3.7, 1.7, 0.8, 1.7, 9.0], chances)) for _ in range(number)]


def test_lists_that_end_too_early_get_a_bias_and_what_is_wrong_a_threshold() -> None:
    calibrator = fit(rows(), "none", "f1")
    point = calibrator[KEY]
    found = point["validation"]["entity"]
    assert found["without"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3, abs=1e-4)}
    assert found["chosen"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert point["end_bias"]["entity"] == -2.0, "the smallest that goes beyond log-odds of 1.7"
    assert math.exp(-2.0) < point["threshold"]["entity"] < math.exp(-0.3)
    assert [one["bias"] for one in found["by_bias"]] == list(BIASES)
    by_bias = {one["bias"]: one for one in found["by_bias"]}
    assert by_bias[-1.5]["recall"] == 0.5
    assert by_bias[-2.0] == {"bias": -2.0, "precision": 0.8, "recall": 1.0, "f1": pytest.approx(8 / 9, abs=1e-4)}
    assert by_bias[4.0]["recall"] == 0.25, "the first entity alone is left"
    assert {one["threshold"] for one in found["by_threshold"]} >= {0.0, point["threshold"]["entity"]}


def test_of_equally_good_thresholds_the_lower_one_is_taken() -> None:
    # 4 of 6 are right down to -0.2 as well as down to -2.0, where one more in three is
    listed = [(-0.1, True), (-0.1, True), (-0.5, False), (-0.6, True), (-2.0, False), (-2.0, False), (-2.0, False)]
    names = [f"n{number}" for number in range(len(listed))]
    gold = [name for name, (_, right) in zip(names, listed, strict=True) if right] + ["missed"]
    some = [row(gold, explored(names, [-9.0] * 7 + [9.0], [chance for chance, _ in listed])) for _ in range(20)]
    found = fit(some, "none", "f1")[KEY]
    best = found["validation"]["entity"]["chosen"]["f1"]
    curve = [one["threshold"] for one in found["validation"]["entity"]["by_threshold"] if one["f1"] == best]
    assert found["threshold"]["entity"] == min(curve)


def test_what_is_listed_where_nothing_is_gets_a_bias_upwards() -> None:
    full = [row(["a", "b"], explored(["a", "b"], [-5.0, -5.0, 5.0], [-0.5, -0.5])) for _ in range(30)]
    empty = [row([], explored(["a"], [-0.7, 3.0], [-0.5])) for _ in range(30)]
    point = fit(full + empty, "none", "f1")[KEY]
    assert point["end_bias"]["entity"] == 1.0
    assert point["validation"]["entity"]["chosen"]["f1"] == 1.0


def test_a_wanted_precision_is_held_at_the_highest_recall() -> None:
    generator = random.Random(1)
    some = []
    for _ in range(60):
        right = [generator.random() < 0.6 for _ in range(3)]
        names = [f"{'abc'[place]}{right[place]}" for place in range(3)]
        gold = [f"{'abc'[place]}True" for place in range(3)]
        chances = [CHANCE[one] - generator.random() for one in right]
        some.append(row(gold, explored(names, [-9.0, -9.0, -9.0, 9.0], chances)))
    free, strict = fit(some, "isotonic", "f1")[KEY], fit(some, "isotonic", "precision=0.95")[KEY]
    chosen = strict["validation"]["entity"]["chosen"]
    assert chosen["precision"] >= 0.95 > free["validation"]["entity"]["without"]["precision"]
    assert all(
        one["recall"] <= chosen["recall"]
        for one in strict["validation"]["entity"]["by_threshold"]
        if one["precision"] >= 0.95
    )
    assert not strict["validation"]["entity"]["why"]
    for one in some:
        one["gold"] = render(Extraction((Entity("Drug", "aTrue"), Entity("Drug", "z"))))
    beyond = fit(some, "isotonic", "precision=1.0")[KEY]["validation"]["entity"]
    assert beyond["chosen"]["precision"] < 1.0
    assert beyond["why"].startswith("the highest precision on validation is 0.")


def test_relations_are_fitted_given_the_entities_that_are_kept() -> None:
    def reading() -> tuple[dict[str, Any], dict[str, Any]]:
        entities = explored(["a", "b", "c"], [-9.0, -9.0, -9.0, 9.0], [-0.1, -0.1, -3.0])
        triples = [RelationTriple("a", "interacts_with", "b"), RelationTriple("a", "interacts_with", "c")]
        found = Extraction(tuple(Entity("Drug", name) for name in "abc"), tuple(triples))
        lines = [0.0, -0.1, -0.1, -3.0, None, 0.0, -0.2, -0.2]
        return entities, {"text": render(found), "ends": [*entities["ends"][:4], None, -9.0, 1.0, 9.0], "lines": lines}

    gold = Extraction((Entity("Drug", "a"), Entity("Drug", "b")), (RelationTriple("a", "interacts_with", "b"),))
    some = []
    for _ in range(60):
        entities, both = reading()
        some.append({"gold": render(gold), "prediction": both["text"], "explored": [entities, both]})
    point = fit(some, "none", "f1")[KEY]
    assert point["threshold"]["entity"] > math.exp(-3.0)
    assert point["end_bias"]["relation"] == 0.0, "the second relation has lost its entity, whatever the bias"
    assert point["validation"]["relation"]["chosen"]["f1"] == 1.0


def test_validation_is_read_for_entities_then_for_relations() -> None:
    first = exploration([], "none", "f1")
    assert first is not None
    assert (first["alone"], first["end_bias"]["entity"]) == ("entity", BIASES[0])
    read = [{**one, "explored": one["explored"][:1]} for one in rows()]
    second = exploration(read, "none", "f1")
    assert second is not None
    assert second["end_bias"] == {"entity": -2.0, "relation": BIASES[0]}
    assert exploration(rows(), "none", "f1") is None
    assert (exploration([], "none", None), exploration([{"gold": ""}], "none", None)) == ({}, None)


def test_of_few_records_nothing_is_fitted() -> None:
    point = fit(rows(3), "isotonic", "f1")[KEY]
    assert point["end_bias"] == point["threshold"] == {"entity": 0.0, "relation": 0.0}
    assert "fewer than 50" in point["validation"]["entity"]["why"]
    assert fit([], "isotonic", "f1")[KEY]["validation"]["entity"]["why"] == "there is no validation split"


@pytest.mark.parametrize("method", ["none", "isotonic"])
def test_of_few_extractions_nothing_is_fitted_however_confidences_are(method: str) -> None:
    found = fit(rows(2), method, "f1")[KEY]
    assert (found["end_bias"], found["threshold"]) == (
        {"entity": 0.0, "relation": 0.0},
        {"entity": 0.0, "relation": 0.0},
    )
    assert found["validation"]["entity"]["why"] == "4 entities in 2 validation records are fewer than 50"


def test_rows_that_were_read_without_a_bias_get_thresholds_alone() -> None:
    def plain(name: str, chance: float) -> dict[str, Any]:
        entities = [{"type": "Drug", "text": name, "log_probability": chance}]
        gold = render(Extraction((Entity("Drug", "a"),)))
        return {"gold": gold, "prediction": "", "entities": entities, "relations": []}

    point = fit([plain("a", -0.1) for _ in range(40)] + [plain("x", -2.0) for _ in range(40)], "none", "f1")[KEY]
    assert point["end_bias"] is None
    assert math.exp(-2.0) < point["threshold"]["entity"] < math.exp(-0.1)


def test_one_reading_tells_both_where_entities_stand_in_the_text() -> None:
    """The second relation is right but comes after an end; the third entity is wrong, and unlikely."""
    types = ["Drug", "Symptom", "Symptom"]
    pairs = tuple(RelationTriple("a", "causes", name) for name in "bc")
    text = "### Text:\n[Drug]a\n gave[Symptom] b\n and[Symptom] c\n or[Symptom] d\n.\n\n### Relations:\n"
    text += "1. a --[causes]--> b\n2. a --[causes]--> c"
    lines = [0.0, -0.1, -0.2, -0.1, -3.0, 0.0, None, 0.0, -0.2, -0.2]
    reading = {"text": text, "ends": [None] * 7 + [-9.0, 1.7, 9.0], "lines": lines}
    gold = render(Extraction(tuple(map(Entity, types, "abc")), pairs))
    point = fit([{"gold": gold, "prediction": text, "explored": [reading]} for _ in range(60)], "none", "f1")[KEY]
    assert point["end_bias"] == {"entity": 0.0, "relation": -2.0}
    assert math.exp(-3.0) < point["threshold"]["entity"] < math.exp(-0.2)
    figures = point["validation"]
    assert [one["bias"] for one in figures["entity"]["by_bias"]] == [0.0], "tags have no end that could be moved"
    assert figures["relation"]["without"]["recall"] == 0.5
    assert figures["entity"]["chosen"]["f1"] == figures["relation"]["chosen"]["f1"] == 1.0


def test_an_output_loses_what_is_below_the_threshold_and_relations_of_it() -> None:
    found = Extraction(
        (Entity("Drug", "aspirin"), Entity("Symptom", "rash"), Entity("Symptom", "fever")),
        (
            RelationTriple("aspirin", "causes", "rash"),
            RelationTriple("aspirin", "causes", "fever"),
        ),
    )
    lines = (0.0, -0.1, -0.2, -3.0, -0.0, 0.0, -0.4, -0.1)

    def left(entity: float, relation: float) -> tuple[Extraction, tuple[float | None, ...]]:
        point = {"version": 1, "threshold": {"entity": entity, "relation": relation}}
        text, chances = kept(render(found), lines, {**RAW, KEY: point})
        parsed = parse(text)
        assert parsed.well_formed
        assert len(chances) == text.count("\n") + 1
        assert [chances[line] for line in parsed.entity_lines] == [
            lines[1 + found.entities.index(entity)] for entity in parsed.extraction.entities
        ]
        return parsed.extraction, chances

    assert kept(render(found), lines, None) == kept(render(found), lines, RAW) == (render(found), lines)
    assert left(0.01, 0.01) == (found, lines)
    assert left(0.5, 0.0)[0] == Extraction(found.entities[:2], found.relations[:1])
    assert left(0.0, 0.8)[0] == Extraction(found.entities, found.relations[1:])
    assert left(1.0, 0.0)[0] == Extraction()
    assert left(1.0, 0.0)[1] == (None,) * 5
    assert kept(NOTHING, (0.0, -0.1), {**RAW, KEY: {"version": 1, "threshold": {"entity": 1.0, "relation": 1.0}}}) == (
        NOTHING,
        (0.0, -0.1),
    )


def test_the_curves_are_drawn() -> None:
    results = {"operating_point": fit(rows(), "none", "f1")[KEY]}
    drawn = draw_operating_point(results)
    assert drawn["operating_point"].lstrip().startswith("<?xml")
    assert drawn == draw_operating_point(results)
    assert draw_operating_point({}) == {}
    names = [trace.name for trace in plot_operating_point(results).data]
    assert names[:3] == ["entities, by bias", "entities, by threshold", "entities, chosen"]
    assert "No operating point" in plot_operating_point({"operating_point": None}).layout.annotations[0].text
