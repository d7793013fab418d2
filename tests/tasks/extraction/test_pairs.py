"""Judged pairs: which there are, what they score, which thresholds are fitted, and what becomes of an output."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.record import Record, render_prompt
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks.extraction import pairs
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, instruction_for, parse, render
from odin_slm.tasks.extraction.pairs import Judge
from odin_slm.tasks.extraction.schema import MEDICAL, SCHEMAS
from odin_slm.tasks.extraction.task import ExtractionTask

ENTITIES = (Entity("Drug", "aspirin"), Entity("Drug", "Codeine"), Entity("Disease", "rash"), Entity("Disease", "gout"))
LISTED = RelationTriple("aspirin", "causes", "rash")
OUTPUT = render(Extraction(ENTITIES, (LISTED,)))
LINES = (-0.1, -0.2, -0.3, -0.4, -0.5, 0.0, -0.6, -0.7)
BC5CDR = instruction_for(SCHEMAS["bc5cdr"])


def judging(mode: str, **thresholds: float | None) -> ExtractionTask:
    """The task of a model whose calibrator judges pairs."""
    return ExtractionTask().with_calibrator({"pairs": {"mode": mode, "thresholds": thresholds}})


def found(task: ExtractionTask, shares: dict[tuple[str, str], float]) -> tuple[list[tuple[str, str]], Any]:
    """Judge :data:`OUTPUT`, given the probability of each pair's line; the rest is that of ``None``."""
    grammar = task.grammar(BC5CDR, "aspirin, Codeine, rash and gout")
    values = []
    for output in grammar.alternatives(OUTPUT):
        pairs = [shares.get((r.head, r.tail), 1e-9) for r in parse(output).extraction.relations]
        values.append(math.log(pairs[0] if pairs else 1 - sum(shares.values())))
    judgement = grammar.judged(OUTPUT, LINES, values)
    parsed = parse(judgement.text)
    assert parsed.well_formed
    assert parsed.extraction.entities == ENTITIES
    assert len(judgement.lines) == judgement.text.count("\n") + 1
    assert judgement.lines[:7] == LINES[:7]
    return [(r.head, r.tail) for r in parsed.extraction.relations], judgement


def test_every_legal_pair_of_listed_entities_is_weighed_once_beside_no_relation() -> None:
    more = (*ENTITIES, Entity("Drug", "Aspirin"), Entity("Disease", "codeine"))
    grammar = judging("pairs").grammar(BC5CDR, "")
    outputs = grammar.alternatives(render(Extraction(more)))
    lists = [parse(output).extraction for output in outputs]
    assert all(one.entities == more for one in lists)
    assert lists[-1].relations == ()
    assert [one.relations for one in lists[:-1]] == [
        (RelationTriple(head, "causes", tail),)
        for head, tails in (("aspirin", ("rash", "gout", "codeine")), ("Codeine", ("rash", "gout")))
        for tail in tails
    ]
    biored = judging("pairs").grammar(instruction_for(SCHEMAS["biored"]), "")
    types = [parse(o).extraction.relations[0].type for o in biored.alternatives(render(Extraction(ENTITIES[:2])))[:-1]]
    assert sorted(types) == ["associated_with"] * 2 + ["interacts_with"] * 2
    assert biored.alternatives(render(Extraction(ENTITIES[2:]))) == []


def test_pairs_replace_the_list_and_both_add_to_it() -> None:
    shares = {("aspirin", "rash"): 0.1, ("aspirin", "gout"): 0.5, ("Codeine", "gout"): 0.3}
    replaced, judgement = found(judging("pairs", causes=math.log(0.4)), shares)
    assert replaced == [("aspirin", "gout"), ("Codeine", "gout")]
    added, _ = found(judging("both", causes=math.log(0.4)), shares)
    assert added == [("aspirin", "rash"), *replaced]
    never, _ = found(judging("both", causes=None), shares)
    assert never == [("aspirin", "rash")]
    nothing, judgement_of_none = found(judging("pairs", causes=None), shares)
    assert nothing == []
    assert judgement_of_none.lines[-1] is None
    assert dict(judgement.weighed)["aspirin --[causes]--> gout"] == pytest.approx(judgement.lines[7])


def test_a_pair_competes_with_its_own_head_and_with_nothing() -> None:
    _, judgement = found(judging("pairs"), {("aspirin", "rash"): 0.6, ("Codeine", "gout"): 0.02})
    weighed = dict(judgement.weighed)
    assert weighed["aspirin --[causes]--> rash"] == pytest.approx(math.log(0.6 / 0.98), abs=1e-6)
    assert weighed["Codeine --[causes]--> gout"] == pytest.approx(math.log(0.02 / 0.40), abs=1e-6)


def test_lists_stay_as_they_are_while_a_calibrator_is_fitted() -> None:
    grammar = ExtractionTask().to_calibrate("both").grammar(BC5CDR, "")
    judgement = grammar.judged(OUTPUT, LINES, [math.log(0.2)] * 5)
    assert (judgement.text, judgement.lines) == (OUTPUT, LINES)
    assert len(judgement.weighed) == 4
    assert ExtractionTask().to_calibrate("list").judge is None
    assert ExtractionTask().with_calibrator({"records": 3}).judge is None


def test_pairs_alone_need_no_list() -> None:
    begin = OUTPUT.partition("### Relations:")[0]
    step = judging("pairs").grammar(BC5CDR, "aspirin, Codeine, rash and gout").step(0, begin)
    assert step is not None
    assert "causes" not in step.lark
    kept = judging("both").grammar(BC5CDR, "aspirin, Codeine, rash and gout").step(0, begin)
    assert kept is not None
    assert "causes" in kept.lark


def rows(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Validation rows: related pairs score about -1, others about -3; a list finds the likelier half of the pairs."""
    rng = random.Random(seed)
    made = []
    for index in range(number):
        weighed, gold, listed = [], [], []
        for head in ("aspirin", "Codeine"):
            for tail in ("rash", "gout"):
                triple = RelationTriple(head, "causes", tail)
                right = rng.random() < 0.3
                score = rng.gauss(-1 if right else -3, 0.5)
                weighed.append([pairs.line_of(triple), score])
                gold += [triple] * right
                listed += [triple] * (score > -1)
        row = {"id": str(index), "gold": render(Extraction(ENTITIES, tuple(gold))), "weighed": weighed}
        entries = [{"head": r.head, "type": r.type, "tail": r.tail, "log_probability": -0.1} for r in listed]
        row |= {"prediction": render(Extraction(ENTITIES, tuple(listed))), "relations": entries, "entities": []}
        made.append(row)
    return made


def f1(some: list[dict[str, Any]]) -> float:
    """Micro F1 of the entries under ``relations``, counted plainly."""
    right = listed = gold = 0
    for row in some:
        mine = {(e["head"].casefold(), e["type"], e["tail"].casefold()) for e in row["relations"]}
        theirs = {(r.head.casefold(), r.type, r.tail.casefold()) for r in parse(row["gold"]).extraction.relations}
        right, listed, gold = right + len(mine & theirs), listed + len(mine), gold + len(theirs)
    return 2 * right / (listed + gold)


@pytest.mark.parametrize("mode", ["pairs", "both"])
def test_thresholds_part_related_pairs_from_others(mode: str) -> None:
    some = rows(100)
    fitted = pairs.fit(some, mode)
    assert fitted["mode"] == mode
    assert -2.7 < fitted["thresholds"]["causes"] < -1.3
    assert fitted["thresholds"]["treats"] is None
    assert json.loads(json.dumps(fitted)) == fitted
    judged = [pairs.with_judged(row, fitted) for row in some]
    assert f1(judged) == pytest.approx(fitted["f1"][mode], abs=1e-4)
    assert f1(some) == pytest.approx(fitted["f1"]["list"], abs=1e-4)
    assert fitted["f1"][mode] > fitted["f1"]["list"] + 0.1
    fresh = rows(100, seed=1)
    assert f1([pairs.with_judged(row, fitted) for row in fresh]) > f1(fresh) + 0.1


def test_thresholds_are_those_of_the_highest_f1() -> None:
    some = rows(40, seed=2)
    scores = sorted({score for row in some for _, score in row["weighed"]})
    tried = [{"mode": "pairs", "thresholds": {"causes": score - 1e-9}} for score in scores]
    best = max(f1([pairs.with_judged(row, one) for row in some]) for one in tried)
    assert pairs.fit(some, "pairs")["f1"]["pairs"] == pytest.approx(best, abs=1e-4)


def test_without_enough_relations_the_list_stays() -> None:
    fitted = pairs.fit(rows(3), "both")
    assert fitted["mode"] == "list"
    assert f"fewer than {pairs.FEWEST}" in fitted["why"]
    assert ExtractionTask().with_calibrator({"pairs": fitted}).judge is None
    calibrator = ExtractionTask().fit_calibration(rows(3), "isotonic", relations="both")
    assert calibrator["pairs"] == fitted


def test_confidences_are_calibrated_on_judged_pairs() -> None:
    task = ExtractionTask()
    calibrator = task.fit_calibration(rows(100), "isotonic", relations="pairs")
    accepted = sum(
        score >= calibrator["pairs"]["thresholds"]["causes"] for row in rows(100) for _, score in row["weighed"]
    )
    assert calibrator["relation"]["extractions"] == accepted
    assert task.with_calibrator(calibrator).judge == Judge.of(calibrator)
    assert MEDICAL.relations[0] in calibrator["pairs"]["thresholds"]


def record(relations: tuple[RelationTriple, ...]) -> Record:
    """A record with four legal pairs."""
    output = render(Extraction(ENTITIES, relations))
    text = "aspirin, Codeine, rash and gout"
    return Record(instruction=BC5CDR, input=text, output=output, id="a", source="bc5cdr", document_id="a")


def asked(example: Record) -> list[tuple[str, str]]:
    """The pairs that an example asks about, with the answers, which are all that carries loss."""
    begin, heading, lines = example["output"].partition(f"\n\n{pairs.PAIRS_HEADER}\n")
    assert heading
    assert parse(f"{begin}\n\n### Relations:\nNone").extraction.entities == ENTITIES
    found = [tuple(line.rsplit(":", 1)) for line in lines.split("\n")]
    assert [example["output"][slice(*ends)] for ends in example["learned"]] == [answer for _, answer in found]
    return [(pair, answer.strip()) for pair, answer in found]


def test_an_exercise_asks_about_every_pair_and_says_which_are_listed() -> None:
    (example,) = ExtractionTask(judged_pairs=8).exercises(record((LISTED,)), lambda one: True, 1)
    assert sorted(asked(example)) == [
        ("Codeine --[causes]--> gout", "no"),
        ("Codeine --[causes]--> rash", "no"),
        ("aspirin --[causes]--> gout", "no"),
        ("aspirin --[causes]--> rash", "yes"),
    ]
    orders = {
        tuple(asked(ExtractionTask(judged_pairs=8).exercises(record((LISTED,)), lambda one: True, seed)[0]))
        for seed in range(9)
    }
    assert len(orders) > 1
    assert {key: value for key, value in example.items() if key not in ("output", "learned")} == {
        key: value for key, value in record((LISTED,)).items() if key != "output"
    }


def test_of_many_pairs_at_most_half_are_related_and_fewer_are_asked_where_they_do_not_fit() -> None:
    three = (LISTED, RelationTriple("aspirin", "causes", "gout"), RelationTriple("Codeine", "causes", "gout"))
    (example,) = ExtractionTask(judged_pairs=2).exercises(record(three), lambda one: True, 1)
    assert sorted(answer for _, answer in asked(example)) == ["no", "yes"]
    (whole,) = ExtractionTask(judged_pairs=8).exercises(record(three), lambda one: True, 1)
    limit = len(whole["output"]) - 1
    (short,) = ExtractionTask(judged_pairs=8).exercises(record(three), lambda one: len(one["output"]) <= limit, 1)
    assert 0 < len(asked(short)) < len(asked(whole)) == 4
    assert ExtractionTask(judged_pairs=8).exercises(record(three), lambda one: False, 1) == []


def test_there_is_no_exercise_without_an_unrelated_pair() -> None:
    every = tuple(RelationTriple(d, "causes", e) for d in ("aspirin", "Codeine") for e in ("rash", "gout"))
    assert ExtractionTask(judged_pairs=8).exercises(record(every), lambda one: True, 1) == []
    assert ExtractionTask().exercises(record((LISTED,)), lambda one: True, 1) == []


def test_a_model_that_was_taught_is_asked_for_yes_or_no() -> None:
    task = ExtractionTask(judged_pairs=8)
    grammar = task.to_calibrate("pairs").grammar(BC5CDR, "aspirin, Codeine, rash and gout")
    outputs = grammar.alternatives(OUTPUT)
    begin = OUTPUT.partition("### Relations:")[0] + f"{pairs.PAIRS_HEADER}\n"
    assert outputs[:2] == [f"{begin}aspirin --[causes]--> rash: yes", f"{begin}aspirin --[causes]--> rash: no"]
    assert len(outputs) == 8
    example = task.exercises(record((LISTED,)), lambda one: True, 1)[0]["output"]
    assert any(example.startswith(output) for output in outputs)  # asked as it was taught
    shares = [math.log(share / 4) for share in (0.9, 0.1, 0.2, 0.8, 0.5, 0.5, 1e-300, 1.0)]
    weighed = dict(grammar.judged(OUTPUT, LINES, shares).weighed)
    assert [math.exp(score) for score in weighed.values()] == pytest.approx([0.9, 0.2, 0.5, 0.0])
    again = ExtractionTask.from_options(task.options())
    assert again == task
    assert again.judged_pairs == 8


def test_training_teaches_a_model_to_judge(tiny_base: Path, tmp_path: Path) -> None:
    from odin_slm.inference.decoding.scoring import log_shares
    from odin_slm.inference.generation import Generator
    from odin_slm.models.tokens import prompt_ids
    from odin_slm.pipelines.training.nodes import train_adapter

    def told(number: int) -> Record:
        listed = (Entity("Drug", "aspirin"), Entity("Drug", "codeine"), Entity("Symptom", "nausea"))
        output = render(Extraction(listed, (RelationTriple("aspirin", "causes", "nausea"),)))
        text, name = f"{number}: aspirin, not codeine, gave nausea.", str(number)
        instruction = instruction_for(SCHEMAS["ade"])
        return Record(instruction=instruction, input=text, output=output, id=name, source="ade", document_id=name)

    task, base = ExtractionTask(judged_pairs=4), BaseModel("tiny", tiny_base)
    train, val = [told(n) for n in range(16)], [told(n) for n in range(90, 93)]
    params = TrainingParams(
        method="full", max_seq_length=400, epochs=40, batch_size=8, evaluations=1, learning_rate=0.01
    )  # of random weights an adapter learns next to nothing
    adapter, state = train_adapter(base, {"task": task.to_dict()}, train, val, tmp_path / "work", params)
    assert (state["train_records"], state["exercises"], state["validation_records"]) == (16, 16, 3)
    generator = Generator(base, adapter)
    grammar = task.to_calibrate("pairs").grammar(val[0]["instruction"], val[0]["input"])
    prompt = prompt_ids(generator.tokenizer, render_prompt(val[0]["instruction"], val[0]["input"]))
    shares = log_shares(generator, prompt, grammar.alternatives(val[0]["output"]))
    weighed = dict(grammar.judged(val[0]["output"], (), shares).weighed)
    assert weighed["aspirin --[causes]--> nausea"] > math.log(0.8)
    assert weighed["codeine --[causes]--> nausea"] < math.log(0.2)
