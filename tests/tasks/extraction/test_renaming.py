"""Other names in a record: text and output change together, and what cannot be told apart stays as it is."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import WrongParameterError
from odin_slm.core.record import Record
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, parse, render
from odin_slm.tasks.extraction.grounding import occurrences
from odin_slm.tasks.extraction.records import make_record
from odin_slm.tasks.extraction.renaming import names_of, renamed
from odin_slm.tasks.extraction.task import ExtractionTask
from odin_slm.tasks.spelling.task import SpellingTask
from odin_slm.training import examples

NAMES = {"Drug": ["ibuprofen"], "Symptom": ["dry cough"], "Disease": []}


def record(text: str, *entities: tuple[str, str], relations: tuple[tuple[str, str], ...] = ()) -> Record:
    """A record of ADE; relations are causes."""
    listed = tuple(Entity(kind, name) for kind, name in entities)
    output = render(Extraction(listed, tuple(RelationTriple(head, "causes", tail) for head, tail in relations)))
    return Record(instruction="i", input=text, output=output, id="1", source="ade", document_id="1")


def test_all_places_of_a_name_change_and_its_relations_follow() -> None:
    before = record(
        "Rash after aspirin. Aspirin was stopped; the rash went, aspirin-induced as it was.",
        *(("Symptom", "Rash"), ("Drug", "aspirin")),
        relations=(("aspirin", "Rash"),),
    )
    after = renamed(before, NAMES, 1.0, random.Random(1))
    assert after["input"] == (
        "Dry cough after ibuprofen. Ibuprofen was stopped; the dry cough went, ibuprofen-induced as it was."
    )
    assert parse(after["output"]).extraction == Extraction(
        (Entity("Symptom", "Dry cough"), Entity("Drug", "ibuprofen")),
        (RelationTriple("ibuprofen", "causes", "Dry cough"),),
    )
    assert {name: value for name, value in after.items() if name not in ("input", "output")} == {
        name: value for name, value in before.items() if name not in ("input", "output")
    }


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("Aspirin asthma.", [("Drug", "Aspirin"), ("Symptom", "Aspirin asthma")]),  # one within the other
        ("Rash.", [("Symptom", "Rash"), ("Disease", "Rash")]),  # two types of one name
        ("Ototoxicity.", [("Symptom", "toxicity")]),  # within a word
        ("Flu, not a dry cough.", [("Disease", "Flu")]),  # no other name is known
        ("Rash, but no dry cough.", [("Symptom", "Rash")]),  # the other name stands there already
        ("No side effect.", []),
    ],
)
def test_a_name_that_cannot_be_told_apart_stays(text: str, entities: list[tuple[str, str]]) -> None:
    before = record(text, *entities)
    assert renamed(before, NAMES, 1.0, random.Random(1)) is before


def test_a_name_that_would_be_found_elsewhere_too_changes_nothing() -> None:
    before = record("Rash and cough after aspirin.", ("Symptom", "Rash"), ("Symptom", "cough"), ("Drug", "aspirin"))
    names = {"Symptom": ["cough attack"], "Drug": ["ibuprofen"]}
    assert renamed(before, names, 1.0, random.Random(1)) is before


def test_acronyms_keep_their_letters() -> None:
    after = renamed(record("ASA gave rash.", ("Drug", "ASA")), {"Drug": ["mAb"]}, 1.0, random.Random(1))
    assert after["input"] == "mAb gave rash."
    after = renamed(record("Aspirin gave rash.", ("Drug", "Aspirin")), {"Drug": ["5-FU"]}, 1.0, random.Random(1))
    assert after["input"] == "5-FU gave rash."


def test_names_are_those_of_the_records() -> None:
    found = names_of(
        [record("Rash, rash.", ("Symptom", "Rash"), ("Drug", "ASA")), record("A rash.", ("Symptom", "rash"))]
    )
    assert found == {"Drug": ["ASA"], "Disease": [], "Symptom": ["rash"]}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_what_is_listed_stands_in_the_text_as_often_as_before(seed: int, share: float) -> None:
    records = [
        make_record(document, instruction="i")
        for corpus in ("bc5cdr", "biored")
        for document in generate(4, seed=seed, corpus=corpus)
    ]
    names, rng = names_of(records), random.Random(seed)
    for before in records:
        after = renamed(before, names, share, rng)
        old, new = (parse(one["output"]).extraction for one in (before, after))
        assert [entity.type for entity in new.entities] == [entity.type for entity in old.entities]
        assert len(new.relations) == len(old.relations)
        for was, now in zip(old.entities, new.entities, strict=True):
            assert now.text in after["input"]
            assert len(occurrences(after["input"], now.text)) == len(occurrences(before["input"], was.text))
        assert (after is before) or share
        assert all(check.holds(after) for check in ExtractionTask().checks() if check.severity == "critical")


def test_a_pass_has_records_of_rare_types_more_often() -> None:
    records = [make_record(document, instruction="i") for document in generate(40, seed=2, corpus="biored")]
    task = ExtractionTask()
    listed = [{kind for kinds in task.labels(one["output"]).values() for kind in kinds} for one in records]
    source = records[0]["source"]
    rare = sum("treats" in kinds for kinds in listed)
    both = sum({"treats", "associated_with"} <= kinds for kinds in listed)
    other = sum("associated_with" in kinds for kinds in listed) - both
    assert 0 < rare < len(records)

    def repeated(repeats: dict[str, int]) -> list[str]:
        made = examples.repeated(records, task, lambda some: [1] * len(some), TrainingParams(repeats=repeats))
        return [one["id"] for one in made]

    once = [one["id"] for one in records]
    assert repeated({}) == once
    assert len(repeated({"treats": 4})) == len(records) + 3 * rare
    assert len(repeated({"treats": 4, "associated_with": 2})) == len(records) + 3 * rare + other
    assert repeated({source: 2, "treats": 1}) == [name for name in once for _ in range(2)]
    assert list(dict.fromkeys(repeated({"treats": 4}))) == once
    with pytest.raises(WrongParameterError, match=r"'cures', or lists something of this type; there are .*treats"):
        repeated({"cures": 2})


def test_copies_alone_have_other_names_and_fit() -> None:
    records = [make_record(document, instruction="i") for document in generate(30, seed=1, corpus="bc5cdr")]
    given = TrainingParams(repeats={"synthetic": 3}, swap_names=0.5)

    def lengths(some: list[Record]) -> list[int]:
        return [len(one["input"]) for one in some]

    def repeated(params: TrainingParams, task: Any = None) -> list[Record]:
        sources = [Record({**one, "source": "synthetic"}) for one in records]
        return examples.repeated(
            sources, task or ExtractionTask(), lambda some: [len(one["input"]) for one in some], params
        )

    made = repeated(given)
    assert [one["id"] for one in made] == [one["id"] for one in records for _ in range(3)]
    assert [one["input"] for one in made[::3]] == [one["input"] for one in records]
    others = [one["input"] != records[number // 3]["input"] for number, one in enumerate(made) if number % 3]
    assert sum(others) > 50
    assert made == repeated(given), "the seed decides"
    assert len({one["input"] for one in made[1::3]} & {one["input"] for one in made[2::3]}) < 15
    longest = max(len(one["input"]) for one in records)
    for one in repeated(given.model_copy(update={"max_seq_length": longest})):
        assert len(one["input"]) <= longest
    with pytest.raises(WrongParameterError, match="the task spelling hold no names") as caught:
        repeated(given, SpellingTask.from_options({}))
    assert caught.value.where == "training.swap_names"
    with pytest.raises(ValueError, match="have repeats make some"):
        TrainingParams(swap_names=0.5)
