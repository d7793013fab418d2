"""What may be reviewed: nothing that is held out, and nothing twice."""

from __future__ import annotations

import random
import string
from typing import Any

from odin_slm.core.document import GivenDocument
from odin_slm.review.candidates import admit, draw

NOTE = "A woman of 54 years developed a rash and fever after the second dose of enalapril."


def given(name: str, text: str, record: int = 1, error: str | None = None) -> GivenDocument:
    return GivenDocument(name, "notes.jsonl", record, text, error)


def known(name: str, split: str | None, text: str, group: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    return {"id": name, "pmid": f"9{name}", "split": None, "text": text}, {"split": split, "group": group or name}


def admitted(drawn: list[GivenDocument], *data: tuple[dict[str, Any], dict[str, Any]]) -> Any:
    documents = [document for document, _ in data]
    splits = {document["id"]: place for document, place in data}
    return admit(drawn, documents, splits, near_duplicate=0.7, seed=1)


def test_nothing_held_out_and_nothing_like_it_is_reviewed() -> None:
    found, left_out = admitted(
        [
            given("new", "Warfarin interacts with fluconazole, which doubles its levels."),
            given("t", "The same id as a test document, in another text."),
            given("9v", "The PubMed id of a validation document."),
            given("copy", NOTE),
            given("near", NOTE.replace("54", "55")),
            given("replaced", "An abstract whose annotation another corpus has replaced; its group is a test group."),
        ],
        known("t", "test", NOTE),
        known("v", "validation", "Entirely different words of a validation document, long enough."),
        known("x", None, "An abstract whose annotation another corpus has replaced; its group is a test group.", "t"),
        known("train", "train", "Warfarin interacts with fluconazole, which doubles its levels."),
    )
    assert [one["id"] for one in found] == ["new"], "a training document is no reason to leave a text out"
    assert left_out == {"held_out": 2, "near_duplicate_of_held_out": 3, "repeated": 0}


def test_no_part_of_a_held_out_text_is_reviewed_and_none_that_holds_one() -> None:
    more = "He was given oral fluids for a week, until his kidneys had recovered from the contrast medium."
    numbered = {"t": "901", "train": "902"}
    held = known("t", "test", f"{more} {NOTE} Nothing else was of note in the months that followed, and he went home.")
    short = known("v", "validation", "No other patient of this ward had a reaction to the drug.")
    drawn = [
        given("part", NOTE.lower()),
        given("phrase", "Nothing else was of note."),
        given("whole", f"{short[0]['text']} They had all been treated by the same physician, with half of the dose."),
        given("train", more),
    ]
    data = [held, short, known("train", "train", more)]
    data = [({**one, "pmid": numbered.get(one["id"], "notes")}, place) for one, place in data]
    found, left_out = admitted(drawn, *data)
    assert [one["id"] for one in found] == ["phrase", "train"], (
        "PubMed ids tell that the last one is of another abstract"
    )
    assert left_out == {"held_out": 0, "near_duplicate_of_held_out": 2, "repeated": 0}


def test_a_repeated_text_is_reviewed_once() -> None:
    found, left_out = admitted([given("a", NOTE), given("b", NOTE.upper()), given("c", "Something else entirely.")])
    assert [one["id"] for one in found] == ["a", "c"]
    assert left_out["repeated"] == 1


def test_a_text_that_only_a_left_out_one_repeats_is_reviewed() -> None:
    drawn = random.Random(0)
    words = ["".join(drawn.choices(string.ascii_lowercase, k=6)) for _ in range(42)]
    held, between, other = (" ".join(words[begin : begin + 34]) for begin in (0, 4, 8))
    found, left_out = admitted([given("between", between), given("other", other)], known("t", "test", held))
    assert left_out == {"held_out": 0, "near_duplicate_of_held_out": 1, "repeated": 0}
    assert [one["id"] for one in found] == ["other"]


def test_names_are_unique_and_fit_for_files() -> None:
    names = ["notes/ä 1.txt:1", "notes/ä 1.txt:1", "NOTES-1.TXT-1", "../..", "..", "x" * 300]
    texts = ["Aspirin.", "Warfarin and rash.", "Fluconazole twice.", "Mitral valve.", "Nothing here.", "Cough, again."]
    found, _ = admitted([given(name, text, n) for n, (name, text) in enumerate(zip(names, texts, strict=True))])
    assert [one["id"] for one in found] == [
        *("notes-1.txt-1", "notes-1.txt-1-2", "NOTES-1.TXT-1-3", "document", "document-2", "x" * 80)
    ]
    assert [one["from"] for one in found] == names


def test_texts_are_as_corpora_have_them() -> None:
    (found,), _ = admitted([given("a", "\ufeffFirst line.\r\nSecond line.\r\n")])
    assert found["text"] == "First line.\nSecond line.\n"


def test_a_training_document_brings_its_pubmed_id_and_its_official_split() -> None:
    found, _ = admitted([given("train", NOTE), given("new", "Another text.")], known("train", "train", NOTE))
    assert [(one["pmid"], one["split"]) for one in found] == [("9train", None), (None, "train")]


def test_a_draw_depends_on_the_seed_and_not_on_what_else_is_there() -> None:
    documents = [given(f"d{n}", f"Text {n}.", n) for n in range(100)]
    drawn, unreadable = draw([*documents, given("bad", "", 101, error="no text")], 10, seed=1)
    assert unreadable == 1
    assert len(drawn) == 10
    assert [document.record for document in drawn] == sorted(document.record for document in drawn)
    assert drawn != draw(documents, 10, seed=2)[0]
    fewer = draw(documents[:50], 10, seed=1)[0]
    assert {d.id for d in drawn if d.record < 50} <= {d.id for d in fewer}
    assert draw(documents, 0, seed=1)[0] == documents
