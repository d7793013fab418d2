"""Questions about letters, with answers that Python's own string functions confirm."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_slm.tasks.spelling.questions import (
    APART,
    LETTERS,
    SPELLING,
    TESTED,
    kind_and_word,
    question,
    training_questions,
)

ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
LETTER_STRINGS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=12)
WORDS = st.builds("{}{}".format, st.sampled_from(["", " "]), LETTER_STRINGS)


def test_the_spelling_of_a_word_by_hand() -> None:
    answers = {kind: question(kind, " straw").answer for kind in SPELLING}
    assert answers == {
        "spell": "s t r a w",
        "separated": "s-t-r-a-w",
        "backwards": "w a r t s",
        "ends": "s w",
        "joined": "straw",
    }
    assert question("spell", " straw").text == "Spell this word letter by letter: straw"
    assert question("spell", "straw").text == "straw: spell this word letter by letter"
    assert question("joined", " straw").text == "Which word do these letters make? s t r a w"


@given(WORDS)
def test_counts_and_positions_are_what_the_word_says(word: str) -> None:
    plain = word.strip()
    for kind in ("count", "trained_count"):
        asked = question(kind, word)
        (letter,) = re.findall(r"letter ([a-z])\b", asked.text)
        assert asked.answer == str(plain.count(letter))
    (ordinal,) = re.findall(rf"\b({'|'.join(ORDINALS)}) letter", question("position", word).text)
    assert question("position", word).answer == plain[ORDINALS.index(ordinal)]
    (number,) = re.findall(r"number (\d+)", question("trained_position", word).text)
    assert question("trained_position", word).answer == plain[int(number) - 1]


@given(WORDS)
def test_every_question_tells_its_kind_and_its_word(word: str) -> None:
    for kind in (*SPELLING, *TESTED, "trained_count", "trained_position"):
        found = kind_and_word(question(kind, word).text)
        assert found is not None
        assert (found[0], found[1].strip()) == (kind, word.strip())


def test_letters_given_apart_ask_the_same_of_the_word() -> None:
    for kind, apart in zip(LETTERS, APART, strict=True):
        assert question(kind, " strawberry").answer == question(apart, " strawberry").answer
        assert "s t r a w b e r r y" in question(apart, " strawberry").text


def test_any_other_text_is_no_question() -> None:
    assert kind_and_word("How many r's are in strawberry?") is None


def test_training_draws_kinds_and_words_what_the_test_asks_otherwise() -> None:
    asked = list(training_questions(" straw", ("spell", "count", "position"), None))
    assert [q.kind for q in asked] == ["spell", "trained_count", "trained_position"]
    assert len(list(training_questions(" straw", SPELLING, 2))) == 2
    words = [f"{one}{another}" for one in "abcdefgh" for another in "ijklmnop"]
    assert {q.kind for word in words for q in training_questions(word, SPELLING, 2)} == set(SPELLING)


@pytest.mark.parametrize("kind", [*SPELLING, *TESTED])
def test_equal_words_get_equal_questions_of_five_words_or_more(kind: str) -> None:
    for word in (" strawberry", "ab"):
        assert question(kind, word) == question(kind, word)
        assert len(question(kind, word).text.split()) >= 5


def test_no_one_answer_pays_for_counts() -> None:
    # of letters drawn at random nearly all would occur once or never
    words = ["banana", "committee", "mississippi", "level", "strawberry", "assess", "coffee", "puppy", "bookkeeper"] * 3
    answers = Counter(question("count", f" {word}{chr(97 + n % 26)}").answer for n, word in enumerate(words))
    assert max(answers.values()) < 0.6 * len(words)
    assert len(answers) >= 3
