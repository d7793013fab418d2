"""Which spellings are one name."""

from __future__ import annotations

import pytest

from odin_slm.corpora.mention_names import is_whole_words, same_name, similar_name, verbatim


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("TNF-α", "tnf a"),
        ("TNF-α", "TNFalpha"),
        ("IFN-γ", "IFN-y"),
        ("5 µg", "5 ug"),
        ("H₂O²", "H2O2"),
        ("Ménière’s", "Meniere's"),
        ("Sjøgren", "sjogren"),
        ("aspirin™", "Aspirin"),
        ("ﬁbrosis", "fibrosis"),
        ("ａｓｐｉｒｉｎ", "aspirin"),
    ],
)
def test_one_name_in_two_spellings(one: str, other: str) -> None:
    assert same_name(one, other)
    assert same_name(other, one)


@pytest.mark.parametrize(
    ("one", "other"), [("TNF-α", "TNF-β"), ("gout", "goat"), ("", ""), ("-", "+"), ("IL-2", "IL-12")]
)
def test_two_names(one: str, other: str) -> None:
    assert not same_name(one, other)


def test_a_plural_is_similar_and_a_long_text_never() -> None:
    assert similar_name("seizures", "Seizure")
    assert not similar_name("hypertension", "high blood pressure")
    assert not similar_name("a" * 201, "a" * 201)


def test_a_name_is_found_in_the_spelling_of_the_text() -> None:
    assert verbatim("Rash under interferon‐α and IL-12.", "Interferon alpha") == "interferon‐α"
    assert verbatim("IL-12 and IL-2", "il 2") == "IL-2", "IL-12 holds no IL-2 of its own"
    assert verbatim("renal failure", "renal fail") is None
    assert verbatim("renal failure", "") is None


def test_whole_words() -> None:
    assert [is_whole_words("a bc-d", *span) for span in ((0, 1), (2, 4), (2, 6), (2, 3), (1, 4), (0, 0))] == [
        *(True, True, True),
        *(False, False, False),
    ]
