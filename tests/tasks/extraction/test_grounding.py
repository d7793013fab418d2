"""Outputs put back on their text, and windows over long texts."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_slm.core.sentences import windows
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render
from odin_slm.tasks.extraction.grounding import Grounded, Occurrence, ground, merge
from odin_slm.tasks.extraction.schema import ENTITY_TYPES, RELATION_TYPES

NOTE = "Enalapril was stopped. Cough and cough again followed enalapril 😀. The cough left."


def out(*entities: tuple[str, str], relations: tuple[tuple[str, str, str], ...] = ()) -> str:
    return render(Extraction(tuple(Entity(*e) for e in entities), tuple(RelationTriple(*r) for r in relations)))


def words(texts: list[str]) -> list[int]:
    return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]


def test_an_entity_is_found_wherever_it_stands() -> None:
    found = ground(NOTE, out(("Drug", "enalapril"), ("Symptom", "cough"), ("Symptom", "Cough"), ("Disease", "flu")))
    assert [(e.type, e.text) for e in found.entities] == [
        ("Drug", "enalapril"),
        ("Symptom", "cough"),
        ("Disease", "flu"),
    ]
    assert [(o.begin, o.text) for o in found.entities[1].occurrences] == [(23, "Cough"), (33, "cough"), (71, "cough")]
    assert found.entities[2].occurrences == ()
    assert all(NOTE[o.begin : o.end] == o.text for e in found.entities for o in e.occurrences)


@pytest.mark.parametrize(
    ("text", "surface", "found"),
    [
        ("Mg was low. He took 5 mg daily.", "Mg", ["Mg"]),
        ("As was found as well as Pb. As before.", "As", ["As", "As"]),
        ("MRNA vaccines hold mRNA.", "mRNA", ["mRNA"]),
        ("In 111 was given in 111 cases.", "In 111", ["In 111"]),
        ("Flu again: flu, Flu. Flu went.", "flu", ["Flu", "flu", "Flu"]),
        ("Signs: Cough, cough. Cough went.", "cough", ["Cough", "cough", "Cough"]),
        ("Signs: Cough, cough. Cough went.", "Cough", ["Cough", "cough", "Cough"]),
        ("Low back pain, then low back pain.", "Low back pain", ["Low back pain", "low back pain"]),
        ("Drug-induced rash, drug-induced rash.", "Drug-induced rash", ["Drug-induced rash", "drug-induced rash"]),
    ],
)
def test_a_word_is_found_with_its_first_letter_in_other_case_and_a_symbol_is_not(
    text: str, surface: str, found: list[str]
) -> None:
    (entity,) = ground(text, out(("Symptom", surface))).entities
    assert [place.text for place in entity.occurrences] == found


def test_confidence_comes_from_the_probability_of_the_line() -> None:
    relations = (("enalapril", "causes", "cough"),)
    output = out(("Drug", "enalapril"), ("Symptom", "cough"), relations=relations)
    lines = (-0.5, -0.1, None, -0.5, -0.5, -0.2, -0.5)
    raw = ground(NOTE, output, lines=lines)
    assert [e.confidence for e in raw.entities] == [0.9048, None]
    assert [r.confidence for r in raw.relations] == [0.8187]
    calibrator = {"entity": {"method": "isotonic", "x": [0.0, 1.0], "y": [0.5, 0.5]}, "relation": {"method": "none"}}
    assert ground(NOTE, output, lines=lines, calibrator=calibrator).entities[0].confidence == 0.5
    assert ground(NOTE, output).entities[0].confidence is None


def test_spellings_of_one_name_share_their_places_and_the_best_confidence() -> None:
    text = "Oseltamivir eases flu. FLU, flu and the Flu."
    pairs = (("oseltamivir", "treats", "Flu"), ("oseltamivir", "treats", "flu"))
    output = out(("Disease", "Flu"), ("Disease", "flu"), ("Drug", "oseltamivir"), relations=pairs)
    found = ground(text, output, lines=(0.0, -0.5, -0.1, -0.1, 0.0, 0.0, -0.5, -0.2))
    assert [(e.text, [o.begin for o in e.occurrences], e.confidence) for e in found.entities] == [
        ("Flu", [18, 28, 40], 0.9048),
        ("oseltamivir", [0], 0.9048),
    ]
    (relation,) = found.relations
    assert (relation.tail.text, relation.tail.type, relation.confidence) == ("Flu", "Disease", 0.8187)
    assert [o.begin for o in relation.tail.occurrences] == [18, 28, 40]


def test_relations_carry_the_places_and_types_of_their_arguments() -> None:
    relations = (("enalapril", "causes", "cough"), ("ENALAPRIL", "causes", "Cough"), ("enalapril", "causes", "rash"))
    found = ground(NOTE, out(("Drug", "enalapril"), ("Symptom", "cough"), relations=relations))
    assert [(r.head.text, r.head.type, r.tail.text, r.tail.type) for r in found.relations] == [
        ("enalapril", "Drug", "cough", "Symptom"),
        ("enalapril", "Drug", "rash", None),
    ]
    assert found.relations[0].head.occurrences == (Occurrence(0, 9, "Enalapril"), Occurrence(54, 63, "enalapril"))


def test_an_argument_listed_under_two_types_has_the_one_that_its_relation_may_have() -> None:
    listed = out(
        ("Disease", "insulin"), ("Drug", "insulin"), ("Disease", "coma"), relations=(("insulin", "causes", "coma"),)
    )
    (relation,) = ground("insulin, coma", listed).relations
    assert (relation.head.type, relation.tail.type) == ("Drug", "Disease")
    listed = out(("Symptom", "coma"), ("Disease", "rash"), relations=(("coma", "causes", "rash"),))
    (relation,) = ground("coma, rash", listed).relations
    assert (relation.head.type, relation.tail.type) == ("Symptom", "Disease"), "no legal pair: what is listed first"


def test_a_window_is_mapped_back_and_malformed_lines_are_counted() -> None:
    begin = NOTE.index("Cough")
    found = ground(NOTE, out(("Symptom", "cough")) + "\nnonsense", begin, begin + 45)
    assert found.malformed == 1
    assert [(o.begin, o.end) for o in found.entities[0].occurrences] == [(23, 28), (33, 38)]


def test_merging_names_an_entity_once_and_finds_it_in_the_whole_text() -> None:
    second = NOTE.index("Cough")
    parts = [
        ground(NOTE, out(("Drug", "Enalapril")), 0, second - 1),
        ground(NOTE, out(("Symptom", "cough"), ("Drug", "enalapril")), second, len(NOTE)),
    ]
    merged = merge(NOTE, parts)
    assert [(e.type, e.text, len(e.occurrences)) for e in merged.entities] == [
        ("Drug", "Enalapril", 2),
        ("Symptom", "cough", 3),
    ]


def test_where_two_types_claim_a_name_each_keeps_its_windows_places() -> None:
    text = "Fever came. Fever left."
    parts = [ground(text, out(("Symptom", "Fever")), 0, 11), ground(text, out(("Disease", "Fever")), 12, 23)]
    merged = merge(text, parts)
    assert {e.type: [o.begin for o in e.occurrences] for e in merged.entities} == {"Symptom": [0], "Disease": [12]}


def test_relations_of_several_windows_become_one_with_the_places_of_all() -> None:
    text = "Zinc caused rash. Later zinc caused rash."
    one = (("zinc", "causes", "rash"),)
    parts = [
        ground(text, out(("Drug", "Zinc"), ("Symptom", "rash"), relations=one), 0, 17),
        ground(text, out(("Drug", "zinc"), ("Symptom", "rash"), relations=one), 18, len(text)),
    ]
    (relation,) = merge(text, parts).relations
    assert [o.begin for o in relation.head.occurrences] == [0, 24]
    assert [o.begin for o in relation.tail.occurrences] == [12, 36]


def test_windows_end_at_sentences_and_share_one() -> None:
    text = " ".join(f"Sentence number {n} ends here." for n in range(10))
    found = [text[begin:end] for begin, end in windows(text, words, budget=20, overlap=1)]
    assert found[0] == "Sentence number 0 ends here. Sentence number 1 ends here. Sentence number 2 ends here."
    assert found[1].startswith("Sentence number 2 ends here.")
    assert max(words(found)) <= 20


@pytest.mark.parametrize("blank", [" ", "\n", "\t", "\r\n"])
def test_a_list_without_sentences_is_cut_between_its_items(blank: str) -> None:
    items = [f"aspirin{number}" for number in range(40)]
    text = blank.join(items)
    found = windows(text, lambda texts: [len(one) for one in texts], budget=100, overlap=0)
    assert len(found) > 3
    assert [item for begin, end in found for item in text[begin:end].split()] == items


def test_a_text_that_fits_is_one_window() -> None:
    assert windows(NOTE, words, budget=100) == [(0, len(NOTE))]
    assert merge(NOTE, [ground(NOTE, out(("Drug", "enalapril")))]).entities[0].text == "enalapril"


def test_a_budget_too_small_for_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        windows(NOTE, words, budget=3)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abAB .?\n\t(é😀", min_size=1, max_size=400), st.integers(0, 3), st.integers(8, 30))
def test_windows_lose_nothing_and_go_forward(text: str, overlap: int, budget: int) -> None:
    def count(texts: list[str]) -> list[int]:
        return [len(one) for one in texts]

    found = windows(text, count, budget, overlap)
    held = {place for begin, end in found for place in range(begin, end)}
    assert all(place in held for place, character in enumerate(text) if not character.isspace())
    assert all(b < d and a < c for (a, b), (c, d) in itertools.pairwise(found))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_offset_cuts_out_its_mention(data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet="abé😀 A.ßİ", min_size=1, max_size=80))
    spans = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 12)).map(lambda s: text[s[0] : s[0] + s[1]])
    names = data.draw(st.lists(spans.filter(str.strip), max_size=4))
    entities = tuple(Entity(data.draw(st.sampled_from(ENTITY_TYPES)), name) for name in names)
    pairs = st.tuples(st.sampled_from(names or ["x"]), st.sampled_from(RELATION_TYPES), st.sampled_from(names or ["y"]))
    relations = tuple(RelationTriple(*triple) for triple in data.draw(st.lists(pairs, max_size=3)))
    output = render(Extraction(entities, relations))
    middle = len(text) // 2
    for found in (ground(text, output), merge(text, [ground(text, output, 0, middle), ground(text, output, middle)])):
        assert isinstance(found, Grounded)
        arguments = [side for relation in found.relations for side in (relation.head, relation.tail)]
        for item in (*found.entities, *arguments):
            assert all(text[o.begin : o.end] == o.text for o in item.occurrences)
