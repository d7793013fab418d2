"""Inflections of one word share a stem; words that only look alike do not."""

from __future__ import annotations

import pytest

from odin_slm.tasks.spelling.stem import stem


@pytest.mark.parametrize(
    "forms",
    [
        "berry berries Berry",
        "run runs runner running",
        "make makes maker making",
        "box boxes boxed boxing",
        "church churches",
        "class classes",
        "happy happier happiest happily",
        "carry carries carried carrying carrier",
        "quick quicker quickest quickly",
        "stop stopped stopping stops",
        "love loved loves loving lover",
    ],
)
def test_regular_inflections_share_a_stem(forms: str) -> None:
    assert len({stem(form) for form in forms.split()}) == 1


@pytest.mark.parametrize(
    ("one", "another"), [("ring", "r"), ("bus", "bu"), ("glass", "glas"), ("string", "str"), ("bed", "b"), ("sly", "s")]
)
def test_an_ending_that_is_the_word_stays(one: str, another: str) -> None:
    assert stem(one) != stem(another)
