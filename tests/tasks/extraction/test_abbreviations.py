"""Abbreviations that a text defines: which they are, and what an output gains by them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_slm.tasks.extraction.abbreviations import KEY, completed, definitions
from odin_slm.tasks.extraction.format import Entity, Extraction, Listed, RelationTriple, parse, render
from odin_slm.tasks.extraction.task import ExtractionTask

TEXT = "Enalapril led to acute renal failure (ARF). ARF was treated; dopamine eased it."
FULL, SHORT = "acute renal failure", "ARF"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (TEXT, ((SHORT, FULL),)),
        ("We gave 5-FU (5-fluorouracil) weekly.", (("5-FU", "5-fluorouracil"),)),
        ("Heparin-induced thrombocytopenia (HIT) is rare.", (("HIT", "Heparin-induced thrombocytopenia"),)),
        ("Acquired immunodeficiency syndrome (AIDS; 12 cases)", (("AIDS", "Acquired immunodeficiency syndrome"),)),
        # the first character begins a word: not the f of "failure" inside "renalfailure"
        ("A case of renalfailure (FR)", ()),
        # within min(n + 5, 2 n) words, in the same sentence
        ("Blood was drawn from all of the pigs (BP).", ()),
        ("It was brief. Then pressure (BP) rose.", ()),
        # no short forms: a number, a sentence, one character
        ("Patients (12) and doses (in mg per kg and day) of vitamin K (K)", ()),
        # of two definitions the first one counts
        ("Renal failure (RF) and rheumatoid factor (RF)", (("RF", "Renal failure"),)),
    ],
)
def test_definitions_are_those_of_schwartz_and_hearst(text: str, found: tuple[tuple[str, str], ...]) -> None:
    assert definitions(text) == found


@given(st.text(alphabet="aAbB (),;.-İß\n1", max_size=60))
def test_any_text_can_be_searched(text: str) -> None:
    for short, long in definitions(text):
        assert short in text
        assert long in text
        assert len(long) > len(short)


def said(*relations: tuple[str, str, float], entities: dict[str, float]) -> Listed:
    return Listed(
        tuple((Entity("Drug" if name == "Enalapril" else "Disease", name), c) for name, c in entities.items()),
        tuple((RelationTriple(head, "causes", tail), chance) for head, tail, chance in relations),
    )


@pytest.mark.parametrize("listed", [FULL, SHORT, "Acute renal failure"])
def test_either_form_brings_the_other_with_its_type_and_chance(listed: str) -> None:
    found = completed(TEXT, said(entities={"Enalapril": -0.1, listed: -0.5})).entities
    names = [listed, SHORT] if listed != SHORT else [FULL, SHORT]
    assert found == ((Entity("Drug", "Enalapril"), -0.1), *((Entity("Disease", name), -0.5) for name in names))


def test_relations_of_either_form_become_one_of_the_first_name() -> None:
    listed = said(
        ("Enalapril", SHORT, -0.3), ("Enalapril", FULL, -0.7), (SHORT, FULL, -0.1), entities={"Enalapril": 0, SHORT: 0}
    )
    assert completed(TEXT, listed).relations == ((RelationTriple("Enalapril", "causes", FULL), -0.3),)
    before = "ARF in the title. " + TEXT
    assert completed(before, listed).relations == ((RelationTriple("Enalapril", "causes", SHORT), -0.3),)


def test_what_is_complete_stays() -> None:
    both = said(("Enalapril", FULL, -0.3), entities={"Enalapril": -0.1, FULL: -0.2, SHORT: -0.4})
    assert completed(TEXT, both) == both
    nothing = said(entities={"Enalapril": -0.1})
    assert completed(TEXT, nothing) == nothing
    assert completed("Enalapril.", both) == both


def test_a_model_completes_where_its_calibrator_says_so() -> None:
    plain = ExtractionTask()
    output = render(
        Extraction(
            (Entity("Drug", "Enalapril"), Entity("Disease", FULL)), (RelationTriple("Enalapril", "causes", FULL),)
        )
    )
    lines = (None, -0.1, -0.2, None, None, -0.3)
    assert KEY not in plain.fit_calibration([], "none")
    calibrator = plain.fit_calibration([], "none", abbreviations=True)
    assert plain.with_calibrator(calibrator).kept(TEXT, output, lines, calibrator) != (output, lines)
    text, chances = plain.with_calibrator(calibrator).kept(TEXT, output, lines, calibrator)
    parsed = parse(text)
    assert [entity.text for entity in parsed.extraction.entities] == ["Enalapril", FULL, SHORT]
    assert chances == (None, -0.1, -0.2, -0.2, None, None, -0.3)
    for calibrated in (None, {name: value for name, value in calibrator.items() if name != KEY}):
        assert plain.with_calibrator(calibrated).kept(TEXT, output, lines, calibrated) == (output, lines)


def test_a_name_that_an_earlier_window_abbreviates_is_one_thing_in_all_of_them() -> None:
    task = ExtractionTask().with_calibrator({KEY: True})
    middle = TEXT.index("ARF was")
    first = render(Extraction((Entity("Drug", "Enalapril"),)))
    second = render(
        Extraction(
            (Entity("Disease", SHORT), Entity("Drug", "dopamine")), (RelationTriple("dopamine", "treats", SHORT),)
        )
    )
    parts = [task.read(TEXT, first, begin=0, end=middle - 1), task.read(TEXT, second, begin=middle)]
    found = task.merge(TEXT, parts)
    assert [entity.text for entity in found.entities] == ["Enalapril", FULL, SHORT, "dopamine"]
    assert [place.begin for place in found.entities[2].occurrences] == [TEXT.index("ARF)"), middle]
    (relation,) = found.relations
    assert (relation.tail.text, relation.tail.type) == (FULL, "Disease")
    assert relation.tail.occurrences[0].begin == TEXT.index(FULL)
    assert [e.text for e in ExtractionTask().read(TEXT, second, begin=middle).entities] == [SHORT, "dopamine"]
