"""One name is one name, however it is written, and its offsets are those of the text as it is."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_slm.core.folding import chunks, fold
from odin_slm.tasks.extraction.format import locate
from odin_slm.tasks.extraction.grounding import ground, merge, occurrences
from odin_slm.tasks.extraction.metrics import score

NFD = "Sjo\u0308gren syndrome"
SAME = {
    "Sj\u00f6gren syndrome": (
        NFD,
        "SJ\u00d6GREN SYNDROME",
        "Sj\u00f6gren\u00a0syndrome",
        "Sj\u00f6gren\u2003 syndrome",
        "Sj\u00f6\u00adgren syn\u00addrome",
        "Sj\u00f6gren \u200bsyndrome\ufeff",
        "\uff33\uff4a\u00f6\uff47\uff52\uff45\uff4e\u3000\uff53\uff59\uff4e\uff44\uff52\uff4f\uff4d\uff45",
    ),
    "TNF-\u03b1": ("TNF\u2010\u03b1", "TNF\u2011\u03b1", "TNF\u2013\u03b1", "TNF\u2212\u03b1", "tnf-\u0391"),
    "fibrosis": ("\ufb01brosis", "\ufb01bro\u00adsis"),
    "Wei\u00dfdorn": ("Weissdorn", "WEISSDORN", "WEI\u1e9eDORN"),
    "5 \u00b5g of IL-2": ("5\u202f\u03bcg of IL\u20102",),
    "Crohn's disease": ("Crohn\u2019s disease", "Crohn\u02bcs disease"),
    "\ud55c\uae00": (unicodedata.normalize("NFD", "\ud55c\uae00"),),
}
PAIRS = [(name, other) for name, others in SAME.items() for other in others]
OTHERS = [("cafe", "caf\u00e9"), ("IL-2", "IL-12"), ("renal failure", "renalfailure"), ("\u03b1", "\u03b2")]


@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_one_name(name: str, other: str) -> None:
    assert fold(name) == fold(other)
    text = f"After {other}, {other}; no x{other}x."
    begin, again = 6, 6 + len(other) + 2
    shown = len(other.rstrip("\ufeff"))
    assert locate(text, name) == [(begin, begin + shown), (again, again + shown)]
    assert locate(f"After {name}.", other) == [(6, 6 + len(name))]


@pytest.mark.parametrize(("name", "other"), OTHERS)
def test_other_names_are_others(name: str, other: str) -> None:
    assert fold(name) != fold(other)
    assert locate(f"After {other}.", name) == []


def test_no_place_cuts_a_character() -> None:
    assert locate("cafe\u0301 and \ufb01brosis", "cafe") == []
    assert locate("\ufb01brosis", "f") == []
    assert locate("e\u0301a", "a") == [(2, 3)], "inside of a word where there is no whole one"
    assert locate("e\u0301a a", "a") == [(4, 5)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A rash_2,  then\nIL-2.", ["A", " ", "rash_2", ",", "  ", "then", "\n", "IL", "-", "2", "."]),
        (f"{NFD}.", ["Sjo\u0308gren", " ", "syndrome", "."]),
        ("fi\u00adbrosis, cough\u00ad.", ["fi\u00adbrosis", ",", " ", "cough", "\u00ad", "."]),
        ("-\u0301a \u0301b", ["-\u0301", "a", " ", "\u0301b"]),
        ("e\u200b\u0301 \u200b", ["e\u200b\u0301", " ", "\u200b"]),
    ],
)
def test_chunks_cut_no_word_and_no_character(text: str, expected: list[str]) -> None:
    assert chunks(text) == expected


@given(st.text(alphabet="aé\u0301\u00ad -.\n1"))
def test_a_name_of_whole_chunks_stands_in_its_text(text: str) -> None:
    parts = chunks(text)
    assert "".join(parts) == text
    for begin in range(len(parts)):
        for end in range(begin + 1, len(parts) + 1):
            name = "".join(parts[begin:end])
            assert locate(text, name) or not fold(name)


def test_a_blank_name_stands_nowhere() -> None:
    for blank in ("", " ", "\u200b", "\u00ad"):
        assert locate("a  b \u200b", blank) == []


def test_other_spellings_and_the_same_case_are_found_together() -> None:
    text = f"Sj\u00f6gren syndrome, {NFD}; cough. Cough\u00ad."
    assert [text[b:e] for b, e in occurrences(text, "Sj\u00f6gren syndrome")] == ["Sj\u00f6gren syndrome", NFD]
    assert [text[b:e] for b, e in occurrences(text, "cough")] == ["cough", "Cough"]


def output(*names: str) -> str:
    listed = "\n".join(f"{n}. [Disease] {name}" for n, name in enumerate(names, 1))
    return f"### Entities:\n{listed}\n\n### Relations:\nNone"


def test_grounded_as_it_stands_in_the_text() -> None:
    text = f"Quorimab caused {NFD} and \ufb01bro\u00adsis."
    found = ground(text, output("Sj\u00f6gren syndrome", NFD, "fibrosis"))
    assert [entity.text for entity in found.entities] == ["Sj\u00f6gren syndrome", "fibrosis"]
    assert [[place.text for place in entity.occurrences] for entity in found.entities] == [
        [NFD],
        ["\ufb01bro\u00adsis"],
    ]
    assert not found.ungrounded
    parts = [ground(text, output(name), 0, 32) for name in (NFD, "Sj\u00f6gren syndrome")]
    (entity,) = merge(text, parts).entities
    assert [text[place.begin : place.end] for place in entity.occurrences] == [NFD]


@pytest.mark.parametrize(("name", "other"), PAIRS)
def test_scores_and_hallucinations(name: str, other: str) -> None:
    rows = [
        {"id": str(n), "input": f"It is {text}.", "gold": output(gold), "prediction": output(predicted)}
        for n, (text, gold, predicted) in enumerate([(name, name, other), (other, name, name), (name, other, name)])
    ]
    results = score(rows, resamples=100)
    assert results["entity_metrics"]["micro"]["f1"] == 1.0
    assert results["output_quality"]["hallucinated_entity_rate"] == 0.0
    assert set(results["variants"]) >= {"partial", "boundaries", "strict"}


@given(st.text(), st.text(max_size=8))
def test_folding_is_stable_and_places_read_as_the_name(text: str, name: str) -> None:
    assert fold(fold(text)) == fold(text)
    for begin, end in locate(text, name):
        assert 0 <= begin < end <= len(text)
        assert fold(text[begin:end]) == fold(name)


@given(st.text(alphabet="ab \u00e9e\u0301\u00ad\ufb01-\u2011A\u00df"))
def test_every_word_is_found_where_it_stands(text: str) -> None:
    for word in text.split():
        assert bool(locate(text, word)) == bool(fold(word))


def test_a_long_text_is_folded_once() -> None:
    text = "Sj\u00f6gren syndrome and coughing, " * 20_000
    started = time.perf_counter()
    for _ in range(20):
        assert locate(text, "absent \u00e9") == []
    assert time.perf_counter() - started < 30
