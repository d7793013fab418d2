"""Scores against their definitions, against independent scorers, and against what a reader expects."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nervaluate import Evaluator
from sklearn.metrics import precision_recall_fscore_support

from odin_slm.errors import PredictionsError
from odin_slm.prompt import Entity, Extraction, RelationTriple, render
from odin_slm.schema import ENTITY_TYPES, RELATION_TYPES
from odin_slm.scoring import ERRORS, difference, errors_in, evaluate, ratios, score

Row = dict[str, Any]
WORDS = ["aspirin", "Naproxen", "pain", "ACUTE", "acute pain", "renal failure", "failure", "rash"]


def said(entities: Iterable[tuple[str, str]] = (), relations: Iterable[tuple[str, str, str]] = ()) -> str:
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
        return said(entities, relations)

    rows = []
    for number in range(size or rng.randrange(1, 9)):
        gold = extraction()
        prediction = rng.choice([extraction, extraction, lambda gold=gold: gold, lambda: "### nonsense"])()
        fields = {"source": rng.choice(["ade", "biored"]), "document_id": f"d{rng.randrange(6)}"}
        rows.append(row(number, gold, prediction, finished=rng.random() < 0.8, **fields))
    return rows


# Against the definition


def by_hand(text: str) -> tuple[set[Any], set[Any]]:
    """Read an output without the project's own parser."""
    entities, relations, section = set(), set(), ""
    for line in text.split("\n"):
        if line.startswith("### "):
            section = line
        elif section == "### Entities:" and ". [" in line:
            kind, surface = line.split(". [", 1)[1].split("] ", 1)
            entities.add((kind, " ".join(surface.lower().split())))
        elif section == "### Relations:" and " --[" in line:
            head, rest = line.split(". ", 1)[1].split(" --[", 1)
            kind, tail = rest.split("]--> ", 1)
            relations.add((" ".join(head.lower().split()), kind, " ".join(tail.lower().split())))
    return entities, relations


def reference(rows: list[Row]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for place, kind in enumerate(("entity", "relation")):
        tp = fp = fn = 0
        each = []
        for one in rows:
            gold, found = by_hand(one["gold"])[place], by_hand(one["prediction"])[place]
            right = [item for item in found if item in gold]
            tp, fp, fn = tp + len(right), fp + len(found) - len(right), fn + len(gold) - len(right)
            p = len(right) / len(found) if found else 0.0
            r = len(right) / len(gold) if gold else 0.0
            each.append((p, r, 2 * p * r / (p + r) if p + r else 0.0) if gold or found else (1.0, 1.0, 1.0))
        p = tp / (tp + fp) if tp + fp else 0.0
        r = tp / (tp + fn) if tp + fn else 0.0
        micro = {"precision": p, "recall": r, "f1": 2 * p * r / (p + r) if p + r else 0.0, "tp": tp, "fp": fp, "fn": fn}
        macro = dict(zip(("precision", "recall", "f1"), numpy.mean(each, axis=0), strict=True))
        results[f"{kind}_metrics"] = {"micro": micro, "macro": macro}
    return results


def test_exact_figures_follow_the_definition_on_300_random_sets() -> None:
    for seed in range(300):
        rows = random_rows(seed)
        scores, expected = score(rows, resamples=2), reference(rows)
        for kind, blocks in expected.items():
            for average, values in blocks.items():
                assert scores[kind][average] == pytest.approx(values, abs=1e-12), (seed, kind, average)


def test_types_and_sources_add_up_to_the_whole() -> None:
    for seed in range(50):
        scores = score(random_rows(seed), resamples=2)
        for kind in ("entity_metrics", "relation_metrics"):
            for group in ("by_type", "by_source"):
                for count in ("tp", "fp", "fn"):
                    assert sum(v[count] for v in scores[kind][group].values()) == scores[kind]["micro"][count]


# Against independent scorers


def test_micro_figures_equal_scikit_learn_on_unions_of_tuples() -> None:
    """The way SpERT scores: labels over the union of gold and predicted tuples."""
    for seed in range(40):
        rows = random_rows(seed, 12)
        scores = score(rows, resamples=2)
        for place, kind in enumerate(("entity_metrics", "relation_metrics")):
            truth, guess = [], []
            for one in rows:
                gold, found = by_hand(one["gold"])[place], by_hand(one["prediction"])[place]
                for item in gold | found:
                    label = item[0] if place == 0 else item[1]
                    truth.append(label if item in gold else "none")
                    guess.append(label if item in found else "none")
            labels = sorted({*truth, *guess} - {"none"})
            p, r, f1, _ = precision_recall_fscore_support(truth, guess, labels=labels, average="micro", zero_division=0)
            micro = scores[kind]["micro"]
            assert (micro["precision"], micro["recall"], micro["f1"]) == pytest.approx((p, r, f1))


def test_exact_and_partial_equal_nervaluate() -> None:
    """On texts in which every string occurs once, strings and spans say the same."""
    rng = random.Random(3)
    for _ in range(30):
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
            rows.append(row(number, said(texts[0]), said(texts[1]), " ".join(words)))
            for spans, side in ((truth, gold), (guess, found)):
                spans.append([{"label": kind, "start": b, "end": e - 1} for kind, b, e in side])
        ours = score(rows, resamples=2)
        theirs = Evaluator(truth, guess, tags=list(ENTITY_TYPES), loader="dict").evaluate()["overall"]
        strict, micro = theirs["strict"], ours["entity_metrics"]["micro"]
        assert micro["tp"] == strict.correct
        assert micro["tp"] + micro["fp"] == strict.actual
        assert micro["tp"] + micro["fn"] == strict.possible
        assert (micro["precision"], micro["recall"]) == pytest.approx((strict.precision, strict.recall))
        partial, half = theirs["partial"], ours["variants"]["partial"]["entity_metrics"]["micro"]
        assert half["tp"] == partial.correct + 0.5 * partial.partial
        assert (half["precision"], half["recall"]) == pytest.approx((partial.precision, partial.recall))


# What a reader expects


def test_zero_where_there_is_no_denominator() -> None:
    assert ratios(0, 0, 0) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    scores = score([row(1, said([("Drug", "aspirin")]), "")], resamples=2)
    assert scores["entity_metrics"]["micro"]["f1"] == 0.0
    assert scores["output_quality"]["hallucinated_entity_rate"] == 0.0


def test_nothing_to_find_and_nothing_found_is_right_in_the_macro_average() -> None:
    rows = [row(1, said(), said()), row(2, said(), said([("Drug", "aspirin")]))]
    scores = score(rows, resamples=2)
    assert scores["entity_metrics"]["macro"]["f1"] == 0.5
    assert scores["entity_metrics"]["micro"]["f1"] == 0.0
    assert scores["variants"]["with_gold"]["entity_metrics"]["micro"]["fp"] == 0


def test_case_and_white_space_do_not_count() -> None:
    assert (
        score([row(1, said([("Drug", "Acid  X")]), said([("Drug", "acid x")]))], resamples=2)["entity_metrics"][
            "micro"
        ]["f1"]
        == 1
    )


def test_strict_wants_the_types_of_arguments() -> None:
    relation = [("aspirin", "causes", "rash")]
    gold = said([("Drug", "aspirin"), ("Symptom", "rash")], relation)
    other = said([("Drug", "aspirin"), ("Disease", "rash")], relation)
    scores = score([row(1, gold, other)], resamples=2)
    assert scores["relation_metrics"]["micro"]["f1"] == 1
    assert scores["variants"]["strict"]["relation_metrics"]["micro"]["f1"] == 0
    assert scores["variants"]["collapsed"]["relation_metrics"]["micro"]["f1"] == 1
    assert scores["variants"]["collapsed"]["entity_metrics"]["micro"]["f1"] == 1
    assert scores["entity_metrics"]["micro"]["f1"] == 0.5


def test_strict_takes_the_pair_of_types_that_fits_the_relation() -> None:
    entities = [("Disease", "gold"), ("Drug", "gold"), ("Symptom", "rash")]  # one text, two types
    text = said(entities, [("gold", "causes", "rash")])
    assert (
        score([row(1, text, said(entities[1:], [("gold", "causes", "rash")]))], resamples=2)["variants"]["strict"][
            "relation_metrics"
        ]["micro"]["f1"]
        == 1
    )


def test_output_quality_counts_what_is_wrong_with_outputs() -> None:
    gold = said([("Drug", "aspirin")])
    rows = [
        row(1, gold, gold),
        row(2, gold, gold, finished=False),
        row(3, gold, gold + "\nand so on"),
        row(4, gold, said([("Drug", "meopurinol"), ("Drug", "ASPIRIN"), ("Disease", "aspirin")])),
    ]
    quality = score(rows, resamples=2)["output_quality"]
    assert quality == {
        "parse_failure_rate": 0.5,
        "unfinished_rate": 0.25,
        "hallucinated_entity_rate": 1 / 5,  # of the distinct texts of each example
        "examples": 4,
    }


def test_unseen_leaves_out_what_training_showed() -> None:
    train = [{"output": said([("Drug", "Aspirin")], [("aspirin", "causes", "rash")]), "source": "ade"}]
    both = said(
        [("Drug", "aspirin"), ("Symptom", "rash")], [("aspirin", "causes", "rash"), ("aspirin", "causes", "pain")]
    )
    unseen = evaluate([row(1, both, both)], None, train, experiment="demo", resamples=2)["variants"]["unseen"]
    assert unseen["entity_metrics"]["micro"]["tp"] == 1
    assert unseen["relation_metrics"]["micro"]["tp"] == 1


@pytest.mark.parametrize(
    ("error", "gold", "prediction"),
    [
        ("hallucinated", said(), said([("Drug", "meopurinol")])),
        ("boundary", said([("Drug", "renal failure")]), said([("Drug", "failure")])),
        ("wrong_type", said([("Drug", "rash")]), said([("Symptom", "Rash")])),
        ("spurious_entity", said(), said([("Drug", "pain")])),
        ("missed", said([("Drug", "pain")]), said()),
        ("dangling_argument", said(), said(relations=[("pain", "causes", "rash")])),
        ("missed_relation", said(relations=[("pain", "causes", "rash")]), said()),
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
    gold = said(entities, [("aspirin", "causes", "rash")])
    expected = {error: 1} | ({"missed_relation": 1} if error == "spurious_relation" else {})
    assert errors_in(row(1, gold, said(entities, [relation]))) == expected


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
    rows = [row(k, said([("Drug", "w")]), said([("Drug", "w")]), "w " * (k % 23 + 1)) for k in range(100)]
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
    assert score(shuffled, seed=1)["intervals"] == one
    low, high = one["entity_f1_micro"]
    assert low <= score(rows, resamples=2)["entity_metrics"]["micro"]["f1"] <= high


def test_the_interval_is_that_of_drawing_documents_one_by_one() -> None:
    rows = random_rows(9, 120)
    for number, one in enumerate(rows):
        one["document_id"] = f"d{number // 3}"
    interval = score(rows, resamples=4000)["intervals"]["entity_f1_micro"]
    counts: dict[str, list[float]] = {}
    for one in rows:
        gold, found = by_hand(one["gold"])[0], by_hand(one["prediction"])[0]
        total = counts.setdefault(one["document_id"], [0, 0, 0])
        for place, value in enumerate((len(gold & found), len(found - gold), len(gold - found))):
            total[place] += value
    per_document = numpy.array(list(counts.values()))
    rng = numpy.random.default_rng(0)
    tp, fp, fn = per_document[rng.integers(0, len(per_document), (4000, len(per_document)))].sum(axis=1).T
    naive = numpy.quantile(2 * tp / (2 * tp + fp + fn), [0.025, 0.975])
    assert interval == pytest.approx(list(naive), abs=0.02)


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
    gold = [said([("Drug", WORDS[k % 8]), ("Disease", WORDS[(k + 3) % 8])]) for k in range(80)]
    worse = [row(k, g, g if k % 2 else "") for k, g in enumerate(gold)]
    better = [row(k, g, g if k % 2 or k % 10 == 0 else "") for k, g in enumerate(gold)]
    change = difference(better, worse)["entity_f1_micro"]
    assert change["value"] == pytest.approx(ratios(96, 0, 64)["f1"] - ratios(80, 0, 80)["f1"])
    low, high = change["interval"]
    assert 0 < low <= change["value"] <= high
    mine, theirs = (score(rows)["intervals"]["entity_f1_micro"] for rows in (better, worse))
    assert mine[0] < theirs[1], "unpaired intervals overlap: the pairing is what tells them apart"
    assert difference(better, better)["entity_f1_micro"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert difference(better, list(reversed(worse))) == difference(better, worse)


# Files


def test_both_decodings_and_the_base_are_scored_and_compared() -> None:
    gold = said([("Drug", "aspirin")])
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
    gold = said([("Drug", "aspirin")])
    results = evaluate([row(1, gold, gold)], [row(2, gold, gold)], None, experiment="demo", resamples=20)
    assert (results["base"], results["difference"]) == (None, None)
    assert "other examples" in results["comparison"]
    with pytest.raises(PredictionsError, match="other examples"):
        difference([row(1, gold, gold)], [row(2, gold, gold)])


def test_four_fields_are_enough_to_score() -> None:
    gold = said([("Drug", "aspirin")])
    results = evaluate([{"id": "a", "input": "aspirin", "gold": gold, "prediction": gold}], experiment="x", resamples=5)
    assert results["entity_metrics"]["micro"]["f1"] == 1
    assert results["decoding"] == "free"
    assert results["test_set"]["sources"] == {"unknown": 1}


def test_the_test_set_says_whether_it_is_synthetic() -> None:
    def described(*documents: str) -> dict[str, Any]:
        rows = [row(k, said(), said(), document_id=name) for k, name in enumerate(documents)]
        return evaluate(rows, experiment="x", resamples=5)["test_set"]

    assert described("ade-990000001")["synthetic"]
    assert "synthetic" in described("ade-990000001")["description"]
    assert not described("ade-12345")["synthetic"]
    assert "synthetic" not in described("ade-12345")["description"]
    assert "1 of them synthetic" in described("ade-12345", "ade-990000001")["description"]
    assert described("ade-1", "ade-1", "ade-2")["documents"] == 2


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


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4))
def test_no_text_breaks_scoring(texts: list[tuple[str, str]]) -> None:
    rows = [row(k, gold, prediction) for k, (gold, prediction) in enumerate(texts)]
    results = evaluate(rows, rows, rows_to_records(rows), experiment="x", resamples=2)
    assert results["output_quality"]["examples"] == len(rows)


def rows_to_records(rows: list[Row]) -> list[Row]:
    return [{"output": one["gold"], "source": "ade"} for one in rows]
