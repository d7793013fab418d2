"""What offsets count is found out, named and used; a mention that fits nothing is a fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.own.reading import mentions, read
from odin_slm.corpora.own.offsets import Places, Reading, plain

TEXT = "Naïve 😀😀 cells.\r\nThey got BRAF,\r\nand 5 mg."
MARKED = "\ufeff" + TEXT
SURFACES = (("BRAF", "Gene"), ("5 mg", "Dose"))


def counted(text: str, unit: str, *, lines: bool = False) -> int:
    """Return the length of a text, counted by the definitions."""
    text = text.replace("\r\n", "\n") if lines else text
    return {"characters": len(text), "bytes": len(text.encode()), "utf-16": len(text.encode("utf-16-le")) // 2}[unit]


def annotations(text: str, unit: str, *, lines: bool = False) -> str:
    rows = []
    for number, (surface, kind) in enumerate(SURFACES, start=1):
        begin = counted(text[: text.index(surface)], unit, lines=lines)
        rows.append(f"T{number}\t{kind} {begin} {begin + len(surface)}\t{surface}\n")
    return "".join(rows)


@pytest.mark.parametrize("unit", ["characters", "bytes", "utf-16"])
@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("mark", [False, True])
def test_a_reading_that_all_mentions_fit_is_named_and_used(unit: str, lines: bool, mark: bool) -> None:
    ann = annotations(MARKED if mark else TEXT, unit, lines=lines)
    found, faults, _ = read("brat", {"a.txt": MARKED, "a.ann": ann})
    assert faults == []
    assert mentions(found) == [list(SURFACES)]
    assert found.documents[0].text == TEXT.replace("\r\n", "\n")
    assert found.choice
    assert found.choice.reading == Reading(unit, lines, mark)


def test_characters_are_taken_where_they_fit() -> None:
    found, _, _ = read("brat", {"a.txt": "BRAF, 5 mg.", "a.ann": annotations("BRAF, 5 mg.", "bytes")})
    assert found.choice
    assert str(found.choice.reading) == "characters"


def test_one_mention_that_fits_nothing_is_a_fault_and_the_others_say_what_they_would_fit() -> None:
    ann = annotations(TEXT, "bytes") + "T9\tGene 0 4\tTP53\n"
    found, faults, collected = read("brat", {"a.txt": TEXT, "a.ann": ann})
    assert len(faults) == 3
    assert "2 of 3 mentions fit if offsets count bytes." in collected.listed[0].fix
    assert mentions(found) == [[]]
    found, faults, _ = read("brat", {"a.txt": TEXT, "a.ann": ann}, offsets="bytes")
    assert len(faults) == 1
    assert mentions(found) == [list(SURFACES)]


def test_a_unit_that_is_named_is_not_doubted() -> None:
    _, faults, _ = read("brat", {"a.txt": TEXT, "a.ann": annotations(TEXT, "bytes")}, offsets="characters")
    assert len(faults) == 2


def test_spans_without_text_fit_where_they_cut_no_word() -> None:
    text = "Naïve 😀 cells got BRAF today"
    begin = len(text[: text.index("BRAF")].encode())
    row = f'{{"text": "{text}", "label": [[{begin}, {begin + 4}, "Gene"]]}}\n'
    found, faults, _ = read("jsonl", {"a.jsonl": row})
    assert (faults, mentions(found)) == ([], [[("BRAF", "Gene")]])
    assert found.choice
    assert found.choice.reading.unit == "bytes"


def test_an_offset_within_a_character_leads_nowhere() -> None:
    places = Places("aé", Reading("bytes"))
    assert places.span(0, 1) == (0, 1)
    assert places.span(1, 3) == (1, 2)
    assert places.span(1, 2) is None
    assert places.span(2, 3) is None


@given(st.text(st.sampled_from("aé€😀\r\n\ufeff")), st.sampled_from(["characters", "bytes", "utf-16"]), st.booleans())
def test_every_character_is_found_by_its_offsets(text: str, unit: str, lines: bool) -> None:
    body = text.removeprefix("\ufeff")
    places = Places(text, Reading(unit, lines))
    letters = body.replace("\r\n", "\n")
    assert places.text == plain(text) == letters
    starts = [n for n in range(len(body)) if not (body[n] == "\n" and body[n - 1 : n] == "\r")]
    for place, start in enumerate(starts):
        begin = counted(body[:start], unit, lines=lines)
        end = counted(body[: starts[place + 1]] if place + 1 < len(starts) else body, unit, lines=lines)
        assert places.span(begin, end) == (place, place + 1)
