"""Scores against their definitions, against independent scorers, and against what a reader expects."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate import Evaluator
from sklearn.metrics import precision_recall_fscore_support

import scoring_reference as reference
from odin_slm.core.errors import PredictionsError
from odin_slm.tasks import resampling
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render
from odin_slm.tasks.extraction.metrics import (
    ERRORS,
    difference,
    errors_in,
    evaluate,
    ratios,
    score,
    strings_of,
)
from odin_slm.tasks.extraction.schema import ENTITY_TYPES, RELATION_TYPES

Row = dict[str, Any]
MEANS = ("micro", "macro")
WORDS = ["aspirin", "Naproxen", "pain", "ACUTE", "acute pain", "renal failure", "failure", "rash"]


def rendered(entities: Iterable[tuple[str, str]] = (), relations: Iterable[tuple[str, str, str]] = ()) -> str:
    return render(Extraction(tuple(Entity(*e) for e in entities), tuple(RelationTriple(*r) for r in relations)))


def row(number: int, gold: str, prediction: str, text: str = " ".join(WORDS), **fields: Any) -> Row:
    name = f"ade-{number}"
    return {
        "id": name,
        "document_id": name,
        "source": "ade",
        "input": text,
        "gold": gold,
        "prediction": prediction,
    } | fields


def random_rows(seed: int, size: int | None = None) -> list[Row]:
    rng = random.Random(seed)

    def surface() -> str:
        word = rng.choice(WORDS)
        return rng.choice([word, word.upper(), word.replace(" ", "  "), word])

    def extraction() -> str:
        entities = [(rng.choice(ENTITY_TYPES), surface()) for _ in range(rng.randrange(5))]
        relations = [(surface(), rng.choice(RELATION_TYPES), surface()) for _ in range(rng.randrange(4))]
        return rendered(entities, relations)

    rows = []
    for number in range(size or rng.randrange(1, 9)):
        gold = extraction()
        prediction = rng.choice([extraction, extraction, lambda gold=gold: gold, lambda: "### nonsense"])()
        fields: Row = {"source": rng.choice(["ade", "biored"]), "document_id": f"d{rng.randrange(6)}"}
        fields["surface_forms"] = {name: rng.sample(WORDS, rng.randrange(1, 4)) for name in rng.sample(WORDS, 2)}
        for name, others in fields["surface_forms"].items():
            others[:] = [other for other in others if other != name]
        rows.append(row(number, gold, prediction, finished=rng.random() < 0.8, **fields))
    return rows


# Against the definition


@pytest.mark.slow
def test_every_mode_follows_its_definition_on_1000_random_sets() -> None:
    for seed in range(1000):
        rows = random_rows(seed)
        scores = score(rows, resamples=2)
        found = {"exact": scores, **scores["variants"]}
        for mode, kinds in reference.modes(rows, ENTITY_TYPES, RELATION_TYPES).items():
            for kind, blocks in kinds.items():
                for name, values in blocks["micro"].items():
                    assert found[mode][kind]["micro"][name] == pytest.approx(values, abs=1e-12), (seed, mode, kind)
                assert found[mode][kind]["macro"] == pytest.approx(blocks["macro"], abs=1e-12), (seed, mode, kind)
                by_type = found[mode][kind].get("by_type", {})
                assert set(by_type) == set(blocks["by_type"]), (seed, mode, kind)
                for name, values in blocks["by_type"].items():
                    own = {measure: by_type[name][measure] for measure in values}
                    assert own == pytest.approx(values, abs=1e-12), (seed, mode, kind, name)


@pytest.mark.slow
def test_subsets_of_examples_and_items_follow_their_definition() -> None:
    for seed in range(100):
        rows, train = random_rows(seed), random_rows(seed + 1)
        seen = strings_of([{"output": one["gold"]} for one in train])
        scores = score(rows, seen=seen, resamples=2)
        known = [{i for one in train for i in reference.listed(one["gold"])[place]} for place in (0, 1)]
        texts = {text for _, text in known[0]}
        for place, kind in enumerate(("entity_metrics", "relation_metrics")):
            pairs = [reference.exact(one)[place] for one in rows]
            for source, found in scores[kind]["by_source"].items():
                own = [pair for pair, one in zip(pairs, rows, strict=True) if one["source"] == source]
                counts = [reference.exact_counts(*pair) for pair in own]
                assert {m: found[m] for m in ("tp", "f1")} == pytest.approx(
                    {m: reference.micro(counts)[m] for m in ("tp", "f1")}
                )
                assert found["macro_f1"] == pytest.approx(reference.macro(counts)["f1"])
                assert found["examples"] == len(own)
            with_gold = [pair for pair in pairs if pair[1]]
            found = scores["variants"]["with_gold"][kind]
            assert found["examples"] == len(with_gold)
            if with_gold:
                expected = reference.block(with_gold, (), reference.exact_counts)
                assert {m: found["micro"][m] for m in expected["micro"]} == pytest.approx(expected["micro"])
                assert found["macro"] == pytest.approx(expected["macro"])
            for variant, known_name in (("seen", True), ("unseen", False)):
                chosen = [
                    [
                        {i for i in side if ((i[1] in texts) if place == 0 else (i in known[1])) == known_name}
                        for side in pair
                    ]
                    for pair in pairs
                ]
                expected = reference.micro(reference.exact_counts(*pair) for pair in chosen)
                found = scores["variants"][variant][kind]["micro"]
                assert {m: found[m] for m in expected} == pytest.approx(expected)


def test_types_and_sources_add_up_to_the_whole() -> None:
    for seed in range(50):
        scores = score(random_rows(seed), resamples=2)
        for kind in ("entity_metrics", "relation_metrics"):
            for group in ("by_type", "by_source"):
                for count in ("tp", "fp", "fn"):
                    assert sum(v[count] for v in scores[kind][group].values()) == scores[kind]["micro"][count]


# Against independent scorers


@pytest.mark.slow
def test_figures_equal_scikit_learn_on_unions_of_tuples() -> None:
    """The way SpERT scores: labels over the union of gold and predicted tuples; micro, macro over types, by type."""

    def compare(found: Row, pairs: list[reference.Sides]) -> None:
        truth, guess = [], []
        for predicted, gold in pairs:
            for item in predicted | gold:
                label = item[len(item) > 2]
                truth.append(label if item in gold else "none")
                guess.append(label if item in predicted else "none")
        labels = sorted({*truth, *guess} - {"none"})

        def theirs(average: str | None) -> Any:
            return precision_recall_fscore_support(truth, guess, labels=labels, average=average, zero_division=0)

        for average, ours in (("micro", found["micro"]), ("macro", found.get("macro_by_type"))):
            if ours is not None:
                assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx(theirs(average)[:3])
        assert set(found["by_type"]) == set(labels)
        for label, *values in zip(labels, *theirs(None), strict=True):
            ours = found["by_type"][label]
            assert [ours[m] for m in ("precision", "recall", "f1", "support")] == pytest.approx(values)

    for seed in range(100):
        rows = random_rows(seed, 12)
        scores = score(rows, resamples=2)
        variants = scores["variants"]
        compare(scores["entity_metrics"], [reference.exact(one)[0] for one in rows])
        compare(scores["relation_metrics"], [reference.exact(one)[1] for one in rows])
        compare(variants["strict"]["relation_metrics"], [reference.strict(one) for one in rows])
        compare(variants["collapsed"]["entity_metrics"], [reference.collapsed(one)[0] for one in rows])


def test_entity_counts_equal_nervaluate() -> None:
    """On texts in which every string occurs once, strings and spans say the same.

    nervaluate's "strict" is our ``exact``, its "exact" our ``boundaries``; its counts of missed, spurious and
    incorrect entities are those of our kinds of errors.
    """
    rng = random.Random(3)
    for _ in range(100):
        rows, truth, guess = [], [], []
        for number in range(6):
            words = [f"w{number}x{k}" for k in range(40)]
            gold, found = [], []
            for slot in range(0, 40, 4):
                kind, length = rng.choice(ENTITY_TYPES), rng.choice([2, 3])
                span = (kind, slot, slot + length)
                shorter, other = (kind, slot, slot + length - 1), (rng.choice(ENTITY_TYPES), slot, slot + length)
                gold += [span] if rng.random() < 0.7 else []
                found += rng.choice([[], [span], [shorter], [other]])
            texts = [[(kind, " ".join(words[b:e])) for kind, b, e in side] for side in (gold, found)]
            rows.append(row(number, rendered(texts[0]), rendered(texts[1]), " ".join(words)))
            for spans, side in ((truth, gold), (guess, found)):
                spans.append([{"label": kind, "start": b, "end": e - 1} for kind, b, e in side])
        ours = score(rows, resamples=2)
        theirs = Evaluator(truth, guess, tags=list(ENTITY_TYPES), loader="dict").evaluate()["overall"]
        modes = {
            "strict": ours["entity_metrics"]["micro"],
            "exact": ours["variants"]["boundaries"]["entity_metrics"]["micro"],
            "partial": ours["variants"]["partial"]["entity_metrics"]["micro"],
        }
        for name, micro in modes.items():
            counts = theirs[name]
            assert micro["tp"] == counts.correct + 0.5 * counts.partial, name
            assert micro["tp"] + micro["fp"] == counts.actual, name
            assert micro["tp"] + micro["fn"] == counts.possible, name
            assert (micro["precision"], micro["recall"], micro["f1"]) == pytest.approx(
                (counts.precision, counts.recall, counts.f1)
            ), name
        errors = {name: found["count"] for name, found in ours["errors"].items()}
        assert errors["missed"] == theirs["strict"].missed
        assert errors["spurious_entity"] + errors["hallucinated"] == theirs["strict"].spurious
        assert errors["boundary"] + errors["wrong_type"] == theirs["strict"].incorrect


# What a reader expects


def test_zero_where_there_is_no_denominator() -> None:
    assert ratios(0, 0, 0) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    scores = score([row(1, rendered([("Drug", "aspirin")]), "")], resamples=2)
    assert scores["entity_metrics"]["micro"]["f1"] == 0.0
    assert scores["output_quality"]["hallucinated_entity_rate"] == 0.0


def test_nothing_to_find_and_nothing_found_is_right_in_the_macro_average() -> None:
    rows = [row(1, rendered(), rendered()), row(2, rendered(), rendered([("Drug", "aspirin")]))]
    scores = score(rows, resamples=2)
    assert scores["entity_metrics"]["macro"]["f1"] == 0.5
    assert scores["entity_metrics"]["micro"]["f1"] == 0.0
    assert scores["variants"]["with_gold"]["entity_metrics"]["micro"]["fp"] == 0
    for metrics in scores["variants"]["with_gold"].values():
        assert metrics["examples"] == 0
        assert metrics["macro"] == ratios(0, 0, 0), "no example is not a perfect one"


def test_case_and_white_space_do_not_count() -> None:
    assert (
        score([row(1, rendered([("Drug", "Acid  X")]), rendered([("Drug", "acid x")]))], resamples=2)["entity_metrics"][
            "micro"
        ]["f1"]
        == 1
    )


def test_strict_wants_the_types_of_arguments() -> None:
    relation = [("aspirin", "causes", "rash")]
    gold = rendered([("Drug", "aspirin"), ("Symptom", "rash")], relation)
    other = rendered([("Drug", "aspirin"), ("Disease", "rash")], relation)
    scores = score([row(1, gold, other)], resamples=2)
    assert scores["relation_metrics"]["micro"]["f1"] == 1
    assert scores["variants"]["strict"]["relation_metrics"]["micro"]["f1"] == 0
    assert scores["variants"]["collapsed"]["relation_metrics"]["micro"]["f1"] == 1
    assert scores["variants"]["collapsed"]["entity_metrics"]["micro"]["f1"] == 1
    assert scores["entity_metrics"]["micro"]["f1"] == 0.5


def test_strict_takes_the_pair_of_types_that_fits_the_relation() -> None:
    entities = [("Disease", "gold"), ("Drug", "gold"), ("Symptom", "rash")]  # one text, two types
    text = rendered(entities, [("gold", "causes", "rash")])
    assert (
        score([row(1, text, rendered(entities[1:], [("gold", "causes", "rash")]))], resamples=2)["variants"]["strict"][
            "relation_metrics"
        ]["micro"]["f1"]
        == 1
    )


def test_output_quality_counts_what_is_wrong_with_outputs() -> None:
    gold = rendered([("Drug", "aspirin")])
    rows = [
        row(1, gold, gold),
        row(2, gold, gold, finished=False),
        row(3, gold, gold + "\nand so on"),
        row(4, gold, rendered([("Drug", "meopurinol"), ("Drug", "ASPIRIN"), ("Disease", "aspirin")])),
    ]
    quality = score(rows, resamples=2)["output_quality"]
    assert quality == {
        "parse_failure_rate": 0.5,
        "unfinished_rate": 0.25,
        "hallucinated_entity_rate": 1 / 5,  # of the distinct texts of each example
        "examples": 4,
    }


def test_a_concept_may_be_named_by_any_of_its_surface_forms() -> None:
    gold = rendered(
        [("Drug", "enalapril"), ("Drug", "Vasotec"), ("Disease", "renal failure"), ("Disease", "liver failure")],
        [("enalapril", "causes", "renal failure"), ("enalapril", "causes", "liver failure")],
    )
    forms = {
        "enalapril": ["Vasotec"],
        "renal failure": ["ARF", "renal and liver failure"],
        "liver failure": ["renal and liver failure"],
    }

    def scored(*items: Any) -> tuple[Row, Row]:
        both = score([row(1, gold, rendered(*items), surface_forms=forms)], resamples=2)["variants"]["any_mention"]
        return both["entity_metrics"]["micro"], both["relation_metrics"]["micro"]

    entities, relations = scored([("Drug", "vasotec"), ("Disease", "arf")], [("vasotec", "causes", "ARF")])
    assert (entities["tp"], entities["fp"], entities["fn"]) == (2, 0, 1), "concepts, not names, are to be found"
    assert (relations["tp"], relations["fp"], relations["fn"]) == (1, 0, 1)
    twice = [("Vasotec", "causes", "ARF"), ("enalapril", "causes", "renal failure")]
    assert scored([], twice)[1] == relations, "a concept that is named twice counts once"
    both = scored([("Disease", "renal and liver failure")], [("enalapril", "causes", "renal and liver failure")])
    assert (both[0]["tp"], both[0]["fp"], both[1]["tp"], both[1]["fp"]) == (2, 0, 2, 0), "a composite name means both"
    wrong = scored([("Symptom", "ARF")], [("ARF", "causes", "Vasotec"), ("renal failure", "causes", "enalapril")])
    assert (wrong[0]["fp"], wrong[1]["fp"]) == (1, 1)
    assert "any_mention" not in score([row(1, gold, gold)], resamples=2)["variants"], "nothing is known of names"


def test_boundaries_ask_for_no_type() -> None:
    gold, other = rendered([("Drug", "rash"), ("Drug", "pain")]), rendered([("Symptom", "rash"), ("Disease", "rash")])
    micro = score([row(1, gold, other)], resamples=2)["variants"]["boundaries"]["entity_metrics"]["micro"]
    assert (micro["tp"], micro["fp"], micro["fn"]) == (1, 0, 1)


def test_unseen_leaves_out_what_training_showed() -> None:
    train = [{"output": rendered([("Drug", "Aspirin")], [("aspirin", "causes", "rash")]), "source": "ade"}]
    both = rendered(
        [("Drug", "aspirin"), ("Symptom", "rash")], [("aspirin", "causes", "rash"), ("aspirin", "causes", "pain")]
    )
    unseen = evaluate([row(1, both, both)], None, train, experiment="demo", resamples=2)["variants"]["unseen"]
    assert unseen["entity_metrics"]["micro"]["tp"] == 1
    assert unseen["relation_metrics"]["micro"]["tp"] == 1


def test_an_error_names_what_was_said_and_what_it_is_held_against() -> None:
    entities = [("Drug", "aspirin"), ("Symptom", "rash")]
    gold = rendered([*entities, ("Disease", "renal failure")], [("aspirin", "causes", "rash")])
    wrong = rendered([*entities, ("Disease", "Failure")], [("rash", "causes", "aspirin")])
    assert errors_in(row(1, gold, wrong)) == [
        ("boundary", ("Disease", "failure"), ("Disease", "renal failure")),
        ("reversed_direction", ("rash", "causes", "aspirin"), ("aspirin", "causes", "rash")),
    ]
    assert errors_in(row(1, gold, rendered(entities))) == [
        ("missed", None, ("Disease", "renal failure")),
        ("missed_relation", None, ("aspirin", "causes", "rash")),
    ]


def test_errors_of_a_file_are_those_of_its_rows() -> None:
    for seed in range(50):
        rows = random_rows(seed, 20)
        each = {one["id"]: Counter(error.kind for error in errors_in(one)) for one in rows}
        for name, found in score(rows, resamples=2)["errors"].items():
            assert found["count"] == sum(counts[name] for counts in each.values())
            assert found["examples"] == [identifier for identifier, counts in each.items() if counts[name]][:5]


@pytest.mark.parametrize(
    ("error", "gold", "prediction"),
    [
        ("hallucinated", rendered(), rendered([("Drug", "meopurinol")])),
        ("boundary", rendered([("Drug", "renal failure")]), rendered([("Drug", "failure")])),
        ("wrong_type", rendered([("Drug", "rash")]), rendered([("Symptom", "Rash")])),
        ("spurious_entity", rendered(), rendered([("Drug", "pain")])),
        ("missed", rendered([("Drug", "pain")]), rendered()),
        ("dangling_argument", rendered(), rendered(relations=[("pain", "causes", "rash")])),
        ("missed_relation", rendered(relations=[("pain", "causes", "rash")]), rendered()),
    ],
)
def test_each_error_is_named(error: str, gold: str, prediction: str) -> None:
    errors = score([row(1, gold, prediction)], resamples=2)["errors"]
    assert {name: found["count"] for name, found in errors.items() if found["count"]} == {error: 1}
    assert errors[error]["examples"] == ["ade-1"]


@pytest.mark.parametrize(
    ("error", "relation"),
    [
        ("reversed_direction", ("rash", "causes", "aspirin")),
        ("wrong_relation_type", ("aspirin", "treats", "rash")),
        ("spurious_relation", ("pain", "causes", "rash")),
    ],
)
def test_each_wrong_relation_is_named(error: str, relation: tuple[str, str, str]) -> None:
    entities = [("Drug", "aspirin"), ("Symptom", "rash"), ("Symptom", "pain")]
    gold = rendered(entities, [("aspirin", "causes", "rash")])
    expected = {error: 1} | ({"missed_relation": 1} if error == "spurious_relation" else {})
    assert Counter(e.kind for e in errors_in(row(1, gold, rendered(entities, [relation])))) == expected


def test_every_false_positive_and_negative_is_one_error() -> None:
    for seed in range(100):
        scores = score(random_rows(seed), resamples=2)
        count = {name: found["count"] for name, found in scores["errors"].items()}
        assert set(count) == set(ERRORS)
        entities, relations = scores["entity_metrics"]["micro"], scores["relation_metrics"]["micro"]
        paired = count["boundary"] + count["wrong_type"]
        assert entities["fp"] == paired + count["hallucinated"] + count["spurious_entity"]
        assert entities["fn"] == paired + count["missed"]
        paired = count["reversed_direction"] + count["wrong_relation_type"]
        assert relations["fp"] == paired + count["dangling_argument"] + count["spurious_relation"]
        assert relations["fn"] == paired + count["missed_relation"]
        assert all(len(found["examples"]) <= 5 for found in scores["errors"].values())


def test_lengths_are_binned_without_gaps_or_overlaps() -> None:
    rows = [row(k, rendered([("Drug", "w")]), rendered([("Drug", "w")]), "w " * (k % 23 + 1)) for k in range(100)]
    bins = score(rows, resamples=2)["by_length"]
    assert sum(one["examples"] for one in bins) == 100
    assert (bins[0]["words"][0], bins[-1]["words"][1]) == (1, 23)
    assert all(left["words"][1] < right["words"][0] for left, right in pairwise(bins))
    assert all(one["entity_f1"] == 1 for one in bins)


# Uncertainty


def test_intervals_are_the_same_for_the_same_seed_and_hold_the_value() -> None:
    rows = random_rows(5, 60)
    one, two, other = (score(rows, seed=seed)["intervals"] for seed in (1, 1, 2))
    assert one == two != other
    shuffled = random.Random(0).sample(rows, len(rows))
    assert score(shuffled, seed=1)["intervals"] == {name: pytest.approx(ends) for name, ends in one.items()}
    low, high = one["entity_f1_micro"]
    assert low <= score(rows, resamples=2)["entity_metrics"]["micro"]["f1"] <= high


def test_the_interval_is_that_of_drawing_documents_one_by_one() -> None:
    rows = random_rows(9, 120)
    for number, one in enumerate(rows):
        one["document_id"] = f"d{number // 3}"
    interval = score(rows, resamples=4000)["intervals"]["entity_f1_micro"]
    counts: dict[str, list[float]] = {}
    for one in rows:
        found, gold = reference.exact(one)[0]
        total = counts.setdefault(one["document_id"], [0, 0, 0])
        for place, value in enumerate((len(gold & found), len(found - gold), len(gold - found))):
            total[place] += value
    per_document = numpy.array(list(counts.values()))
    rng = numpy.random.default_rng(0)
    tp, fp, fn = per_document[rng.integers(0, len(per_document), (4000, len(per_document)))].sum(axis=1).T
    naive = numpy.quantile(2 * tp / (2 * tp + fp + fn), [0.025, 0.975])
    assert interval == pytest.approx(list(naive), abs=0.02)


def test_sentences_of_one_abstract_are_drawn_together() -> None:
    gold, wrong = rendered([("Drug", "aspirin")]), rendered([("Drug", "Naproxen")])
    rows = [row(4 * a + n, gold, gold if a % 2 else wrong) for a in range(40) for n in range(4)]
    others = [{**one, "prediction": gold if n // 4 % 3 else wrong} for n, one in enumerate(rows)]
    grouped = [{**one, "group": str(n // 4)} for n, one in enumerate(rows)]

    def width(rows: list[Row]) -> float:
        low, high = score(rows, resamples=2000)["intervals"]["entity_f1_micro"]
        return high - low

    assert width(grouped) == pytest.approx(2 * width(rows), rel=0.15), "four times as few draws: twice the width"
    apart, together = (difference(one, others, resamples=2000)["entity_f1_micro"] for one in (rows, grouped))
    assert together["value"] == apart["value"]
    assert together["p_value"] > 5 * apart["p_value"]


def test_every_headline_figure_has_an_interval_that_holds_it() -> None:
    rows = [{**one, "input": "acute pain"} if number % 3 else one for number, one in enumerate(random_rows(5, 60))]
    scores = score(rows, resamples=400)
    averages = [f"{k}_{m}_{a}" for k in ("entity", "relation") for m in ("precision", "recall", "f1") for a in MEANS]
    rates = ["parse_failure_rate", "unfinished_rate", "hallucinated_entity_rate"]
    assert set(scores["intervals"]) == {*averages, *rates}
    for name, (low, high) in scores["intervals"].items():
        kind, *rest = name.split("_")
        value = scores["output_quality"][name] if name in rates else scores[f"{kind}_metrics"][rest[1]][rest[0]]
        assert low < value < high, name


@pytest.mark.slow
def test_intervals_of_all_figures_are_those_of_drawing_documents_one_by_one() -> None:
    rows = random_rows(9, 90)
    documents: dict[str, list[Row]] = {}
    for one in rows:
        documents.setdefault(one["document_id"], []).append(one)
    rng = random.Random(1)
    drawn: dict[str, list[float]] = {}
    for _ in range(150):
        sample = [one for name in rng.choices(list(documents), k=len(documents)) for one in documents[name]]
        copies = [{**one, "id": str(number)} for number, one in enumerate(sample)]
        scores = score(copies, resamples=2)
        for name in scores["intervals"]:
            kind, *rest = name.split("_")
            value = scores["output_quality"].get(name)
            drawn.setdefault(name, []).append(scores[f"{kind}_metrics"][rest[1]][rest[0]] if value is None else value)
    quick = score(rows, resamples=4000)["intervals"]
    for name, values in drawn.items():
        assert quick[name] == pytest.approx(list(numpy.quantile(values, [0.025, 0.975])), abs=0.04), name


def test_resamples_that_are_drawn_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, others = random_rows(5, 60), random_rows(6, 60)
    others = [{**one, "prediction": other["prediction"]} for one, other in zip(rows, others, strict=True)]
    whole = score(rows), difference(rows, others)
    monkeypatch.setattr(resampling, "_DRAWN_AT_ONCE", 50)
    monkeypatch.setattr(resampling, "_SMALL", 40)
    assert (score(rows), difference(rows, others)) == whole


def test_documents_not_examples_are_drawn() -> None:
    """Ten copies of an example inside its document teach nothing new."""
    rows = random_rows(5, 30)
    for number, one in enumerate(rows):
        one["document_id"] = f"d{number}"
    copies = [{**one, "id": f"{one['id']}-{k}"} for one in rows for k in range(10)]
    assert score(copies, seed=1)["intervals"]["entity_f1_micro"] == pytest.approx(
        score(rows, seed=1)["intervals"]["entity_f1_micro"]
    )


def test_a_difference_is_paired() -> None:
    gold = [rendered([("Drug", WORDS[k % 8]), ("Disease", WORDS[(k + 3) % 8])]) for k in range(80)]
    worse = [row(k, g, g if k % 2 else "") for k, g in enumerate(gold)]
    better = [row(k, g, g if k % 2 or k % 10 == 0 else "") for k, g in enumerate(gold)]
    change = difference(better, worse)["entity_f1_micro"]
    assert change["value"] == pytest.approx(ratios(96, 0, 64)["f1"] - ratios(80, 0, 80)["f1"])
    low, high = change["interval"]
    assert 0 < low <= change["value"] <= high
    mine, theirs = (score(rows)["intervals"]["entity_f1_micro"] for rows in (better, worse))
    assert mine[0] < theirs[1], "unpaired intervals overlap: the pairing is what tells them apart"
    assert difference(better, better)["entity_f1_micro"] == {"value": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    assert difference(better, list(reversed(worse))) == difference(better, worse)


# Files


def test_both_decodings_and_the_base_are_scored_and_compared() -> None:
    gold = rendered([("Drug", "aspirin")])
    rows = [row(k, gold, gold, decoding="constrained", free={"prediction": "", "finished": False}) for k in range(4)]
    base = [row(k, gold, "", decoding="constrained", free={"prediction": gold}) for k in range(4)]
    results = evaluate(rows, base, None, experiment="demo", resamples=20)
    assert results["decoding"] == "constrained"
    assert results["entity_metrics"]["micro"]["f1"] == 1
    assert results["free"]["entity_metrics"]["micro"]["f1"] == 0
    assert results["free"]["output_quality"]["unfinished_rate"] == 1
    assert results["decoding_difference"]["entity_f1_micro"]["value"] == 1
    assert results["base"]["entity_metrics"]["micro"]["f1"] == 0
    assert results["base"]["free"]["entity_metrics"]["micro"]["f1"] == 1
    assert results["difference"]["entity_f1_micro"]["value"] == 1


def test_a_base_on_other_examples_is_not_compared() -> None:
    gold = rendered([("Drug", "aspirin")])
    results = evaluate([row(1, gold, gold)], [row(2, gold, gold)], None, experiment="demo", resamples=20)
    assert (results["base"], results["difference"]) == (None, None)
    assert "other examples" in results["comparison"]
    with pytest.raises(PredictionsError, match="other examples"):
        difference([row(1, gold, gold)], [row(2, gold, gold)])


def test_four_fields_are_enough_to_score() -> None:
    gold = rendered([("Drug", "aspirin")])
    results = evaluate([{"id": "a", "input": "aspirin", "gold": gold, "prediction": gold}], experiment="x", resamples=5)
    assert results["entity_metrics"]["micro"]["f1"] == 1
    assert results["decoding"] == "free"
    assert results["test_set"]["sources"] == {"unknown": 1}


def test_the_test_set_says_whether_it_is_synthetic() -> None:
    def described(*documents: str) -> dict[str, Any]:
        rows = [row(k, rendered(), rendered(), document_id=name) for k, name in enumerate(documents)]
        return evaluate(rows, experiment="x", resamples=5)["test_set"]

    assert described("ade-990000001")["synthetic"]
    assert "synthetic" in described("ade-990000001")["description"].casefold()
    assert not described("ade-12345")["synthetic"]
    assert "synthetic" not in described("ade-12345")["description"]
    assert "1 of them synthetic" in described("ade-12345", "ade-990000001")["description"]
    assert described("ade-1", "ade-1", "ade-2")["documents"] == 2


def test_only_of_the_experiments_own_test_split_it_is_said_that_it_was_held_out() -> None:
    def description(manifest: str | None) -> str:
        rows = [
            {**row(k, rendered(), rendered(), document_id=f"ade-{k}"), "manifest_sha256": manifest} for k in range(2)
        ]
        return str(evaluate(rows, experiment="x", resamples=5)["test_set"]["description"])

    assert description("0" * 64).startswith("Held-out documents of ")
    assert description(None).startswith("Documents of ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "no prediction"),
        (lambda rows: [*rows, rows[0]], "occurs more than once"),
        (lambda rows: [rows[0], {k: v for k, v in rows[1].items() if k != "gold"}], "row 2: expected a text 'gold'"),
        (lambda rows: [rows[0], {**rows[1], "prediction": None}], "row 2: expected a text 'prediction'"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(change: Callable[[list[Row]], list[Row]], message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        evaluate(change(random_rows(1, 3)), experiment="x")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4))
def test_no_text_breaks_scoring(texts: list[tuple[str, str]]) -> None:
    rows = [row(k, gold, prediction) for k, (gold, prediction) in enumerate(texts)]
    results = evaluate(rows, rows, rows_to_records(rows), experiment="x", resamples=2)
    assert results["output_quality"]["examples"] == len(rows)


def rows_to_records(rows: list[Row]) -> list[Row]:
    return [{"output": one["gold"], "source": "ade"} for one in rows]
