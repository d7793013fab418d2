"""The quality gate: one critical failure refuses, and making data worse never raises the score."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction_values import TASK
from odin_slm.core.record import Record
from odin_slm.dataprep.quality import PROFILES, assess
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render

NO_LEAKS: dict[str, list[Any]] = {"exact_inputs": [], "pmids": [], "near_duplicates": []}


def record(number: int) -> Record:
    return Record(
        instruction="i",
        input=f"Patient {number} took drug{number} and later had rash{number} for days.",
        output=render(
            Extraction(
                (Entity("Drug", f"drug{number}"), Entity("Symptom", f"rash{number}")),
                (RelationTriple(f"drug{number}", "causes", f"rash{number}"),),
            )
        ),
        id=f"ade-{number}",
        source="ade",
        document_id=f"ade-{number}",
    )


def dataset() -> dict[str, list[Record]]:
    return {
        "train": [record(n) for n in range(80)],
        "validation": [record(n) for n in range(80, 90)],
        "test": [record(n) for n in range(90, 100)],
    }


def test_an_id_may_hold_spaces_as_names_of_files_do() -> None:
    records = dataset()
    for found in records["train"]:
        found["id"] = found["document_id"] = f"notes-Report {found['id']}"
    assert (named := assess(records, NO_LEAKS, TASK, profile="publishing"))["score"] == 100.0, named
    records["train"][0]["id"] = "notes-Report\t1"
    assert assess(records, NO_LEAKS, TASK, profile="publishing")["score"] < 100.0


def hallucinate(r: Record, _: random.Random) -> None:
    r["output"] = r["output"].replace("] drug", "] drog")


def unknown_label(r: Record, _: random.Random) -> None:
    r["output"] = r["output"].replace("[Symptom]", "[Disease]")


def dangle(r: Record, _: random.Random) -> None:
    r["output"] = r["output"].replace("--> rash", "--> fever")


def garble(r: Record, _: random.Random) -> None:
    r["output"] = r["output"].replace("1. [", "1 [")


def forget_provenance(r: Record, _: random.Random) -> None:
    r["document_id"] = ""


def mangle(r: Record, _: random.Random) -> None:
    r["instruction"] += "\ufffd"


def leak_a_token(r: Record, _: random.Random) -> None:
    r["output"] = r["output"].replace("] rash", f"] hf_{'a' * 30} rash")


DAMAGE = [hallucinate, unknown_label, dangle, garble, forget_provenance, mangle, leak_a_token]


def test_good_data_pass_with_full_marks() -> None:
    result = assess(dataset(), NO_LEAKS, TASK, profile="publishing")
    assert (result["decision"], result["score"], result["grade"]) == ("pass", 100.0, "A")


@pytest.mark.parametrize("damage", [hallucinate, unknown_label, dangle, garble, leak_a_token])
def test_one_critical_failure_refuses_and_names_the_record(damage: Any) -> None:
    data = dataset()
    damage(data["train"][3], random.Random(0))
    result = assess(data, NO_LEAKS, TASK, profile="exploration")
    assert result["decision"] == "fail"
    failed = [c for c in result["checks"] if not c["passed"]]
    assert any("ade-3" in c["examples"] for c in failed)
    assert all(c["fix"] for c in failed)


def test_a_leak_refuses() -> None:
    leaks = {**NO_LEAKS, "pmids": [{"documents": ["ade-1", "ade-95"], "splits": ["test", "train"]}]}
    assert assess(dataset(), leaks, TASK, profile="exploration")["decision"] == "fail"


def test_profiles_are_applied() -> None:
    data = dataset()
    for r in data["train"] + data["validation"] + data["test"]:
        forget_provenance(r, random.Random(0))
    results = {profile: assess(data, NO_LEAKS, TASK, profile=profile) for profile in PROFILES}
    assert results["exploration"]["decision"] == "pass"
    assert results["publishing"]["score"] < PROFILES["publishing"].minimum
    assert results["publishing"]["decision"] == "fail"
    data = dataset()
    for r in data["train"][1:4]:
        r["input"] = data["train"][0]["input"]
    failed = {
        p: {c["name"] for c in assess(data, NO_LEAKS, TASK, profile=p)["checks"] if not c["passed"]} for p in PROFILES
    }
    repeats = "hardly any record of train repeats an input"
    assert repeats not in failed["exploration"]
    assert repeats in failed["ml-training"]


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": 3},
        {"extra": "x"},
        {"input": "a\x00b"},
        {"source": ""},
        {"id": "a\tb"},
        {"instruction": "\ufffd"},
    ],
)
def test_a_record_of_another_shape_is_named(change: dict[str, Any]) -> None:
    data = dataset()
    good = assess(data, NO_LEAKS, TASK, profile="ml-training")
    assert all(c["passed"] for c in good["checks"])
    data["test"][0] |= change  # type: ignore[typeddict-item]
    shape = next(
        c for c in assess(data, NO_LEAKS, TASK, profile="ml-training")["checks"] if c["name"].startswith("fields")
    )
    assert shape["failed"] == 1


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DAMAGE), st.integers(0, 99)), max_size=12), st.integers(0, 5))
def test_worse_data_never_score_higher(damages: list[tuple[Any, int]], copies: int) -> None:
    data = dataset()
    rows = [r for part in data.values() for r in part]
    score = assess(data, NO_LEAKS, TASK, profile="ml-training")["score"]
    for damage, number in damages:
        damage(rows[number], random.Random(number))
        worse = assess(data, NO_LEAKS, TASK, profile="ml-training")["score"]
        assert worse <= score
        score = worse
    for number in range(copies):
        data["train"][number + 1]["input"] = data["train"][0]["input"]
        worse = assess(data, NO_LEAKS, TASK, profile="ml-training")["score"]
        assert worse <= score
        score = worse
