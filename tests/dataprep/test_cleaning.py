"""Cleaning steps: what they change or leave out is named, the rest stays byte for byte, and all of it may be off."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction_values import TASK
from odin_slm.config.parameters import CombinationParams
from odin_slm.core.document import Document, Mention
from odin_slm.core.hashing import canonical_json, sha256_text
from odin_slm.core.record import Record
from odin_slm.dataprep.cleaning import balance, drop_duplicates, drop_empty, normalise_text, plain_text
from odin_slm.pipelines.combination.nodes import describe_test_set
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, parse, render
from odin_slm.tasks.spelling.task import SpellingTask


def record(n: int, text: str, *names: str, source: str = "ade", kind: str = "Drug") -> Record:
    return Record(
        instruction="Extract.",
        input=text,
        output=render(Extraction(tuple(Entity(kind, name) for name in names))),
        id=f"r{n}",
        source=source,
        document_id=f"d{n}",
    )


def splits(*train: Record) -> dict[str, list[Record]]:
    return {"train": list(train), "validation": [], "test": [record(99, "Nothing was seen here.")]}


def test_text_becomes_plain_in_input_and_output_alike() -> None:
    odd = record(1, "Me\u0301thadone\u00a0caused \u2018rash\u2019.", "Me\u0301thadone", "\u2018rash\u2019")
    plain = record(2, "Aspirin caused a rash.", "Aspirin")
    cleaned = normalise_text(task=TASK, splits=splits(odd, plain))
    assert cleaned.changed == ["r1"]
    first, second = cleaned.records["train"]
    assert first["input"] == "M\u00e9thadone caused 'rash'."
    assert [e.text for e in parse(first["output"]).extraction.entities] == ["M\u00e9thadone", "'rash'"]
    assert second == plain


def test_relations_follow_their_entities() -> None:
    output = render(
        Extraction(
            (Entity("Drug", "a\u00a0b"), Entity("Symptom", "rash")), (RelationTriple("a\u00a0b", "causes", "rash"),)
        )
    )
    (clean,) = normalise_text(
        task=TASK, splits=splits({**record(1, "a\u00a0b caused rash"), "output": output})
    ).records["train"]
    assert parse(clean["output"]).extraction.relations == (RelationTriple("a b", "causes", "rash"),)


def test_what_becomes_equal_is_listed_once() -> None:
    output = render(
        Extraction(
            (
                Entity("Drug", "xol"),
                Entity("Disease", "Gaucher\u2019s disease"),
                Entity("Disease", "gaucher's disease"),
            ),
            (
                RelationTriple("xol", "treats", "Gaucher\u2019s disease"),
                RelationTriple("xol", "treats", "gaucher's disease"),
            ),
        )
    )
    text = "xol for Gaucher\u2019s disease: gaucher's disease"
    (clean,) = normalise_text(task=TASK, splits=splits({**record(1, text), "output": output})).records["train"]
    assert parse(clean["output"]).extraction == Extraction(
        (Entity("Drug", "xol"), Entity("Disease", "Gaucher's disease")),
        (RelationTriple("xol", "treats", "Gaucher's disease"),),
    )


def test_spaces_of_all_widths_become_plain() -> None:
    widths = [chr(n) for n in range(0x10000) if unicodedata.category(chr(n)) == "Zs"]
    assert len(widths) == 17
    assert {plain_text(space) for space in widths} == {" "}


def test_a_mention_that_would_lose_its_place_keeps_the_record_as_it_was() -> None:
    # the accent belongs to the letter that ends the mention, and would be composed into it in the text alone
    torn = record(1, "use\u0301 of it", "use")
    cleaned = normalise_text(task=TASK, splits=splits(torn))
    assert cleaned.records["train"] == [torn]
    assert not cleaned.changed


def test_the_first_of_equal_inputs_stays_in_each_split() -> None:
    cleaned = drop_duplicates(
        {"train": [record(1, "A b c"), record(2, "a  B c"), record(3, "other")], "test": [record(4, "a b c")]}
    )
    assert cleaned.left_out == ["r2"]
    assert [r["id"] for r in cleaned.records["train"]] == ["r1", "r3"]
    assert [r["id"] for r in cleaned.records["test"]] == ["r4"]


def test_records_without_entities_leave_training_alone() -> None:
    cleaned = drop_empty(
        task=TASK, splits=splits(record(1, "Aspirin helped.", "Aspirin"), record(2, "Nothing helped."))
    )
    assert cleaned.left_out == ["r2"]
    assert [r["id"] for r in cleaned.records["test"]] == ["r99"]
    words = splits(record(1, "straw"), record(2, "berry"))
    assert drop_empty(words, SpellingTask()).records == words, "an answer has no labels that it could be without"


@given(st.lists(st.sampled_from(["ade", "bc5cdr", "biored"]), min_size=1, max_size=60), st.floats(1.0, 4.0))
def test_no_source_outweighs_the_smallest_by_more_than_the_limit(sources: list[str], limit: float) -> None:
    train = [record(n, f"text {n}", "Aspirin", source=source) for n, source in enumerate(sources)]
    cleaned = balance(task=TASK, splits=splits(*train), by="source", limit=limit)
    sizes = Counter(r["source"] for r in cleaned.records["train"])
    assert max(sizes.values()) <= limit * min(Counter(sources).values())
    assert len(cleaned.records["train"]) + len(cleaned.left_out) == len(train)
    assert [r["id"] for r in cleaned.records["train"]] == [
        r["id"] for r in train if r["id"] not in set(cleaned.left_out)
    ]


def test_types_are_balanced_by_the_rarest_that_a_record_holds() -> None:
    drugs = [record(n, f"Aspirin {n}", "Aspirin") for n in range(6)]
    symptom = record(7, "rash after Aspirin", "rash", kind="Symptom")
    nothing = [record(n, f"none {n}") for n in range(10, 15)]
    cleaned = balance(task=TASK, splits=splits(*drugs, symptom, *nothing), by="type", limit=2.0)
    left = [r["id"] for r in cleaned.records["train"]]
    assert left == ["r0", "r1", "r7", "r10", "r11"]


def test_a_run_cleans_what_its_parameters_say_and_reports_it(project: Path, run: Callable[..., dict[str, Any]]) -> None:
    def report() -> dict[str, Any]:
        return json.loads((project / "data/08_reporting/test/cleaning.json").read_text())

    run("data")
    before = report()
    assert before["steps"] == {}
    run("data", params={"combination": {"drop_empty": True, "balance_by": "source", "balance_limit": 1.5}})
    after = report()
    assert set(after["steps"]) == {"drop_empty", "balance_by_source"}
    left_out = sum(len(step["left_out"]) for step in after["steps"].values())
    assert left_out == before["records"]["train"] - after["records"]["train"] > 0
    assert after["records"]["test"] == before["records"]["test"]
    train = json.loads((project / "data/05_model_input/test/train.json").read_text())
    assert len(train) == after["records"]["train"]
    assert all(parse(r["output"]).extraction.entities for r in train)


def test_a_balance_by_something_else_is_refused(run: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Exception, match="balance_by"):
        run("data", params={"combination": {"balance_by": "length"}})


def test_the_names_of_concepts_are_cleaned_as_the_records_are() -> None:
    text = "Caf\u0065\u0301 syndrome (\u2018CS\u2019) followed."
    spans = [(text.index(name), name) for name in ("Caf\u0065\u0301 syndrome", "\u2018CS\u2019")]
    mentions = tuple(Mention(begin, begin + len(name), name, "Disease", ("C",)) for begin, name in spans)
    documents = [Document(f"bc5cdr-{n}", text, "bc5cdr", str(n), mentions=mentions).to_dict() for n in (1, 2)]
    splits = {"bc5cdr-1": {"split": "test"}, "bc5cdr-2": {"split": "train"}}
    for params, name, other in (
        (CombinationParams(normalise_text=True), "Caf\u00e9 syndrome", "'CS'"),
        (CombinationParams(), "Caf\u0065\u0301 syndrome", "\u2018CS\u2019"),
    ):
        context = describe_test_set(documents, splits, {"seed": 1}, params)
        assert context["surface_forms"] == {"bc5cdr-1": {name: [other]}}
        assert context["groups"] == {"bc5cdr-1": "1"}
        assert context["manifest_sha256"] == sha256_text(canonical_json({"seed": 1}))
