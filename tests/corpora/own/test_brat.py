"""Brat's standoff, line by line."""

from __future__ import annotations

import pytest

from corpora.own.reading import mentions, read, relations

TEXT = "BRAF was given at 5 mg orally.\nTP53 and again BRAF."
MARKED = "T1\tGene 0 4\tBRAF\nT2\tDose 18 22\t5 mg\nR1\tgiven_at Arg1:T1 Arg2:T2\t\n"


def brat(annotations: str, text: str = TEXT, **changes: object) -> tuple[object, list[str]]:
    found, faults, _ = read("brat", {"a.txt": text, "a.ann": annotations}, **changes)
    return found, faults


def test_what_is_no_mention_and_no_relation_is_left_out_and_counted() -> None:
    rest = "E1\tGiven:T1 Dose:T2\nA1\tSure T1\nM2\tSure T1\nN1\tReference T1 HGNC:1097\tBRAF\n"
    rest += "*\tEquiv T1 T2\n#1\tNote T1\tx\n"
    found, faults = brat(MARKED + rest + "R2\tgiven_at Arg1:E1 Arg2:T2\n")
    assert faults == []
    assert mentions(found) == [[("BRAF", "Gene"), ("5 mg", "Dose")]]
    assert relations(found) == [[("braf", "given_at", "5 mg")]]
    assert found.dropped == {
        "attribute: not read": 2,
        "equivalence: not read": 1,
        "event: not read": 1,
        "normalisation: not read": 1,
        "note: not read": 1,
        "relation: of an event": 1,
    }


def test_a_mention_in_pieces_is_dropped_with_its_relations_and_named() -> None:
    found, faults = brat("T1\tGene 0 4;31 35\tBRAF TP53\nT2\tDose 18 22\t5 mg\nR1\tgiven_at Arg1:T1 Arg2:T2\n")
    assert faults == []
    assert mentions(found) == [[("5 mg", "Dose")]]
    assert found.dropped == {"mention: in several pieces": 1, "relation: with a mention that was dropped": 1}
    assert found.pieces == ["a.ann:1"]


def test_pieces_with_nothing_but_space_between_them_are_one_mention() -> None:
    found, faults = brat("T1\tRoute 23 30;31 35\torally. TP53\n")
    assert (faults, mentions(found)) == ([], [[("orally.\nTP53", "Route")]])


def test_overlaps_are_kept_and_named() -> None:
    found, faults = brat("T1\tGene 0 4\tBRAF\nT2\tDose 0 8\tBRAF was\n")
    assert (faults, found.overlaps) == ([], ["a.ann:2"])
    assert len(found.documents[0].mentions) == 2


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "T1\tGene 1 5\tBRAF",
            "a.ann:1: characters 1-5 of the document (51 characters) are 'RAF '; expected the mention",
        ),
        ("T1\tGene 0 999\tBRAF", "a.ann:1: offsets 0-999 lead to no characters of the text, which has 51."),
        ("T1\tGene 4 0\tBRAF", "a.ann:1: offsets 4-0 lead to no characters"),
        ("T1\tGene 0 4;60 64\tBRAF x", "a.ann:1: offsets 0-4 lead to no characters"),
        ("T1\tProtein 0 4\tBRAF", "a.ann:1: found the entity type 'Protein', which entities do not name."),
        ("T1\tGene 0 4\tBRAF\nT1\tGene 31 35\tTP53", "a.ann:2: found 'T1' again in one document."),
        ("T1 Gene 0 4 BRAF", "a.ann:1: found 'T1 Gene 0 4 BRAF'; expected a mention"),
        ("T1\tGene 0\tBRAF", "a.ann:1: found 'T1\\tGene 0\\tBRAF'; expected a mention"),
        ("R1\tgiven_at Arg1:T1 Arg2:T9", "a.ann:1: given_at relates the mention 'T1', which is not there."),
        (MARKED + "R2\tdoubles Arg1:T1 Arg2:T2", "a.ann:4: found the relation type 'doubles'"),
        (MARKED + "R2\tgiven_at Arg1:T2 Arg2:T1", "a.ann:4: given_at relates Dose to Gene; expected Gene to Dose."),
        ("T1\tGene ٣ 4\tBRAF", "a.ann:1: found"),
    ],
)
def test_a_fault_is_named_with_its_line_and_costs_no_more_than_it_must(line: str, fault: str) -> None:
    found, faults = brat(f"{line}\n")
    assert len(faults) == 1
    assert faults[0].startswith(fault)
    assert brat(f"{line}\n", on_fault="drop")[1] == faults
    assert len(found.documents) == 1


def test_a_mention_with_a_key_that_was_given_is_left_out() -> None:
    found, _ = brat("T1\tGene 0 4\tBRAF\nT1\tGene 31 35\tTP53", on_fault="drop")
    assert mentions(found) == [[("BRAF", "Gene")]]


def test_all_faults_are_listed_at_once() -> None:
    _, faults = brat("T1\tGene 1 5\tBRAF\nT2\tProtein 31 35\tTP53\nT3 x\nR1\tgiven_at Arg1:T8 Arg2:T9\n")
    assert [fault.partition(": ")[0] for fault in faults] == ["a.ann:3", "a.ann:1", "a.ann:2", "a.ann:4"]


def test_texts_and_annotations_belong_together() -> None:
    found, faults, _ = read("brat", {"a.ann": MARKED, "b.txt": TEXT, "c.txt": TEXT, "c.ann": ""})
    assert faults == ["a.ann:1: there is no a.txt."]
    assert [document.id for document in found.documents] == ["notes-c"]
    assert found.dropped == {"document: a text without annotations": 1}


def test_an_empty_text_is_a_fault() -> None:
    assert brat("", text=" \n")[1] == ["a.ann:1: the document holds no text."]
