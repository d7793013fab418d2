"""Promotion: only a significant gain, on the same examples, takes the champion's place."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from kedro.io import DatasetError

from extraction_values import TASK
from odin_slm.core.errors import PredictionsError
from odin_slm.datasets.registry import ChampionDataset
from odin_slm.tasks.criteria import holm
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render
from odin_slm.tasks.extraction.metrics import HEADLINE, difference, score
from odin_slm.tracking.promotion import Champion, decide, judge
from tasks.extraction.test_metrics import random_rows

OPTIONS: dict[str, Any] = {"significance": 0.05, "resamples": 999, "seed": 1}


def rows(right: float, seed: int, size: int = 80, *, relations: bool = True) -> list[dict[str, Any]]:
    """Predictions of which a share is right; relations are right with the entities, or never."""
    rng = random.Random(seed)
    made = []
    for number in range(size):
        entities = (Entity("Drug", "aspirin"), Entity("Symptom", "rash"))
        gold = Extraction(entities, (RelationTriple("aspirin", "causes", "rash"),))
        predicted = gold if rng.random() < right else Extraction(entities[:1])
        if not relations:
            predicted = Extraction(predicted.entities)
        made.append(
            {"id": f"r{number}", "document_id": f"d{number // 2}", "source": "ade", "input": "rash by aspirin"}
            | {"gold": render(gold), "prediction": render(predicted)}
        )
    return made


def test_a_clear_gain_is_promoted_and_the_same_model_is_not() -> None:
    worse, better = rows(0.4, 1), rows(0.9, 2)
    gain = decide(better, worse, TASK, **OPTIONS)
    assert gain["decision"] == "promote"
    assert gain["why"] == "significantly better in entity F1 and relation F1"
    assert gain["metrics"]["entity_f1_micro"]["p_value"] < 0.05
    assert decide(worse, better, TASK, **OPTIONS)["decision"] == "keep"
    same = decide(better, better, TASK, **OPTIONS)
    assert same["decision"] == "keep"
    assert same["metrics"]["entity_f1_micro"]["p_value"] == 1.0
    assert "champion stays" in same["why"]


def test_a_gain_that_costs_the_other_figure_is_not_promoted() -> None:
    found = decide(rows(0.9, 2, relations=False), rows(0.4, 1), TASK, **OPTIONS)
    assert found["metrics"]["entity_f1_micro"]["value"] > 0
    assert (found["decision"], found["why"]) == ("keep", "significantly worse in relation F1")


def test_the_first_model_needs_no_test() -> None:
    assert decide(rows(0.1, 1), [], TASK, **OPTIONS)["decision"] == "promote"


def test_other_examples_are_refused_by_their_digests() -> None:
    with pytest.raises(PredictionsError, match=r"other examples \(sha256 .*here"):
        decide(rows(0.5, 1), rows(0.5, 1, size=79), TASK, **OPTIONS)


def test_other_data_are_refused_by_the_digest_of_their_manifest() -> None:
    mine = [{**row, "manifest_sha256": "a" * 64} for row in rows(0.5, 1)]
    theirs = [{**row, "manifest_sha256": "b" * 64} for row in rows(0.4, 2)]
    with pytest.raises(
        PredictionsError, match=r"champion's predictions are of other data \(manifest sha256 bbbbbbbbbbbb…"
    ):
        decide(mine, theirs, TASK, **OPTIONS)
    with pytest.raises(PredictionsError, match="manifest sha256 unknown"):
        decide(mine, rows(0.4, 2), TASK, **OPTIONS)
    assert decide(mine, [{**row, "manifest_sha256": "a" * 64} for row in theirs], TASK, **OPTIONS)["metrics"]


@pytest.mark.parametrize("field", ["input", "gold"])
def test_a_changed_example_is_another_test_set(field: str) -> None:
    mine, theirs = rows(0.5, 1), rows(0.4, 2)
    theirs[7][field] += " "
    with pytest.raises(PredictionsError, match="other examples"):
        decide(mine, theirs, TASK, **OPTIONS)


def test_a_model_is_never_told_apart_from_itself() -> None:
    for seed in range(20):
        same = random_rows(seed, 30)
        found = decide(same, random.Random(seed).sample(same, 30), TASK, **OPTIONS)
        assert found["decision"] == "keep"
        assert all(m["value"] == 0 and m["p_value"] == 1 and m["interval"] == [0, 0] for m in found["metrics"].values())


def test_exchanging_the_models_turns_the_difference_round() -> None:
    one, other = random_rows(3, 40), random_rows(4, 40)
    other = [{**mine, "prediction": theirs["prediction"]} for mine, theirs in zip(one, other, strict=True)]
    there, back = difference(one, other), difference(other, one)
    for name, found in there.items():
        assert back[name]["value"] == pytest.approx(-found["value"])
        assert back[name]["p_value"] == pytest.approx(found["p_value"], abs=0.05)
        assert back[name]["interval"] == pytest.approx([-found["interval"][1], -found["interval"][0]], abs=0.03)


def test_the_same_gain_is_promoted_on_enough_documents_only() -> None:
    """A model that is right wherever the champion is, and on every tenth document more."""

    def gain(size: int) -> dict[str, Any]:
        champion = rows(0.5, 3, size=size)
        better = [{**r, "prediction": r["gold"]} if n // 2 % 10 == 0 else r for n, r in enumerate(champion)]
        return decide(better, champion, TASK, **OPTIONS)

    few, many = gain(30), gain(600)
    assert (few["decision"], many["decision"]) == ("keep", "promote")
    for found in (few, many):
        assert all(metric["value"] >= 0 for metric in found["metrics"].values())
    assert all(many["metrics"][name]["interval"][0] > 0 for name in HEADLINE)


def test_two_figures_give_chance_no_second_occasion() -> None:
    adjusted = holm({"entity_f1_micro": 0.03, "relation_f1_micro": 0.02})
    assert adjusted == pytest.approx({"relation_f1_micro": 0.04, "entity_f1_micro": 0.04})
    assert holm({"a": 0.9, "b": 0.001}) == pytest.approx({"b": 0.002, "a": 0.9})


def test_equal_models_are_rarely_told_apart() -> None:
    """Under the null hypothesis a p-value is below 0.05 in about 5 % of the cases, and no more."""
    found = [difference(rows(0.5, 2 * n), rows(0.5, 2 * n + 1), resamples=199, seed=n) for n in range(120)]
    for metric in ("entity_f1_micro", "relation_f1_micro"):
        assert (
            sum(one[metric]["p_value"] < 0.05 for one in found) <= 13
        )  # 6 expected; 13 is beyond the 99.5th percentile


def test_p_values_are_those_of_exchanging_documents_one_by_one() -> None:
    mine, theirs = random_rows(5, 40), random_rows(5, 40)
    rng = random.Random(0)
    theirs = [{**row, "prediction": rng.choice([row["gold"], row["prediction"]])} for row in theirs]
    quick = difference(mine, theirs, resamples=4000, seed=1)
    generator = numpy.random.default_rng(2)
    documents = sorted({row["document_id"] for row in mine})

    def gap(one: list[dict[str, Any]], other: list[dict[str, Any]], metric: str) -> float:
        kind = metric.split("_")[0]
        scores = [score(r, resamples=100)[f"{kind}_metrics"]["micro"]["f1"] for r in (one, other)]
        return scores[0] - scores[1]

    for metric in ("entity_f1_micro", "relation_f1_micro"):
        found, beyond = abs(gap(mine, theirs, metric)), 0
        for _ in range(60):
            swap = dict(zip(documents, generator.random(len(documents)) < 0.5, strict=True))
            one = [t if swap[m["document_id"]] else m for m, t in zip(mine, theirs, strict=True)]
            other = [m if swap[m["document_id"]] else t for m, t in zip(mine, theirs, strict=True)]
            beyond += abs(gap(one, other, metric)) >= found - 1e-12
        assert quick[metric]["p_value"] == pytest.approx((beyond + 1) / 61, abs=0.2)


def test_a_champion_file_without_predictions_is_not_no_champion(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    dataset = ChampionDataset(name="any", override={"path": str(tmp_path / "empty.jsonl")})
    with pytest.raises(DatasetError, match="holds no predictions") as caught:
        dataset.load()
    assert isinstance(caught.value.__cause__, PredictionsError)


def test_a_run_compares_with_the_champion_it_is_given(project: Path, run: Callable[..., dict[str, Any]]) -> None:
    faster = {"num_samples": 6, "max_new_tokens": 24, "bootstrap_resamples": 100}
    run(params={"evaluation": faster})
    reports = project / "data/08_reporting/test"
    assert json.loads((reports / "promotion.json").read_text())["why"] == "there is no champion to compare with"
    own = project / "data/07_model_output/test/predictions.jsonl"
    champion = project / "champion.jsonl"
    kept = [json.loads(line) for line in own.read_text().splitlines()]
    champion.write_text("".join(json.dumps({**row, "prediction": row["gold"]}) + "\n" for row in kept))
    before = champion.read_bytes()
    run("evaluation", from_nodes=["decide_promotion"], params={"champion": str(champion), "evaluation": faster})
    decision = json.loads((reports / "promotion.json").read_text())
    assert decision["decision"] == "keep"
    assert decision["metrics"]["entity_f1_micro"]["value"] < 0
    assert decision["test_set"]["manifest_sha256"] == kept[0]["manifest_sha256"]
    assert "Keep the champion" in (reports / "report.html").read_text(encoding="utf-8")
    assert champion.read_bytes() == before
    with pytest.raises(Exception, match=r"missing\.jsonl"):
        run("evaluation", from_nodes=["decide_promotion"], params={"champion": str(project / "missing.jsonl")})


def test_a_grammar_takes_no_champions_place() -> None:
    free = [{**row, "decoding": "free"} for row in rows(0.4, 1)]
    constrained = [{**row, "decoding": "constrained"} for row in rows(0.9, 2)]
    found = judge(constrained, Champion(free, "3", "m"), TASK, manifest_sha256="m", **OPTIONS)
    assert found["decision"] == "keep"
    assert found["why"] == "champion 3 was scored with free decoding, this model with constrained"
    again = judge(constrained, Champion(rows(0.4, 1), "3", "m"), TASK, manifest_sha256="m", **OPTIONS)
    assert again["decision"] == "keep", "rows that say nothing were decoded freely"
    like = Champion([{**row, "decoding": "constrained"} for row in free], "3", "m")
    assert judge(constrained, like, TASK, manifest_sha256="m", **OPTIONS)["decision"] == "promote"
