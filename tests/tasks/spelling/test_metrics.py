"""Each figure against a reference by hand."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_slm.tasks.spelling import metrics


@pytest.mark.parametrize(
    ("gold", "output", "right"),
    [
        ("3", "3", True),
        ("3", "There are 3 r's in strawberry.", True),
        ("3", "Three", True),
        ("0", "zero times", True),
        ("3", "2, no, 3", False),
        ("1", "11", False),
        ("1", "often", False),
        ("1", "", False),
    ],
)
def test_counts(gold: str, output: str, right: bool) -> None:
    assert metrics.count_is_right(gold, output) is right


@pytest.mark.parametrize(
    ("gold", "output", "right"),
    [
        ("a", "a", True),
        ("a", "A.", True),
        ("r", 'The third letter is "r".', True),
        ("a", "a word", False),
        ("a", "b", False),
        ("a", "", False),
    ],
)
def test_positions(gold: str, output: str, right: bool) -> None:
    assert metrics.letter_is_right(gold, output) is right


@pytest.mark.parametrize(
    ("output", "spelled", "character_level", "distance"),
    [
        ("s t r a w", True, 1.0, 0.0),
        ("S-T-R-A-W", True, 1.0, 0.0),
        ("s t r w", False, 3 / 5, 1 / 5),  # one letter left out: what follows is out of place, and one edit away
        ("s t r a w s", False, 5 / 6, 1 / 6),
        ("s t r o w", False, 4 / 5, 1 / 5),
        ("w a r t s", False, 1 / 5, 4 / 5),
        ("straw", False, 0.0, 1.0),  # a word, and no letters
        ("", False, 0.0, 1.0),
    ],
)
def test_spelled_words(output: str, spelled: bool, character_level: float, distance: float) -> None:
    gold = "s t r a w"
    assert metrics.is_spelled(gold, output) is spelled
    assert metrics.character_level_accuracy(gold, output) == pytest.approx(character_level)
    assert metrics.levenshtein_distance(gold, output) == pytest.approx(distance)


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_edit_distance_is_that_of_its_definition(left: str, right: str) -> None:
    @cache
    def defined(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        substituted = defined(i - 1, j - 1) + (left[i - 1] != right[j - 1])
        return min(defined(i - 1, j) + 1, defined(i, j - 1) + 1, substituted)

    assert metrics.edit_distance(left, right) == defined(len(left), len(right))
