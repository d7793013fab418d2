"""The choice of documents against values made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from odin_slm.review.selection import REASONS, choose, farthest, shares, uncertainty

TEXTS = [
    "Aspirin caused a rash in one patient.",
    "Aspirin caused a rash in one patient again.",
    "Aspirin caused a rash in another patient.",
    "Warfarin interacts with fluconazole.",
    "The mitral valve was replaced without complications.",
]


def row(*confidences: float | None, malformed: int = 0, finished: bool = True) -> dict[str, Any]:
    items = [{"confidence": confidence} for confidence in confidences]
    windows = [{"finished": finished}]
    return {"entities": items[:1], "relations": items[1:], "malformed_lines": malformed, "windows": windows}


@pytest.mark.parametrize(
    ("found", "doubt"),
    [
        (row(1.0, 1.0), 0.0),
        (row(0.9, 0.5), 0.3),
        (row(0.9, None), 0.55),
        (row(1.0, malformed=1), 0.5),
        (row(1.0, finished=False, malformed=2), 0.75),
        (row(), 0.0),
        (row(finished=False), 1.0),
    ],
)
def test_uncertainty_is_the_expected_share_of_wrong_items(found: dict[str, Any], doubt: float) -> None:
    assert math.isclose(uncertainty(found), doubt, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("count", "weights", "expected"),
    [
        (8, (0.5, 0.25, 0.25), (4, 2, 2)),
        (10, (0.5, 0.25, 0.25), (5, 3, 2)),
        (1, (0.5, 0.25, 0.25), (1, 0, 0)),
        (5, (0.0, 0.0, 3.0), (0, 0, 5)),
        (0, (1.0, 1.0, 1.0), (0, 0, 0)),
        (7, (1.0, 1.0, 1.0), (3, 2, 2)),
    ],
)
def test_a_number_is_shared_out_by_the_largest_remainders(
    count: int, weights: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    found = shares(count, dict(zip(REASONS, weights, strict=True)))
    assert tuple(found.values()) == expected


def test_the_farthest_texts_are_the_ones_of_other_subjects() -> None:
    assert set(farthest(TEXTS, [0], 2, seed=1)) == {3, 4}
    assert set(farthest(TEXTS, [3], 4, seed=1)[:2]) > {4}, "those that repeat another one come last"
    assert farthest(TEXTS, [], 0, seed=1) == []
    begun = farthest(TEXTS, [], 3, seed=1)
    assert len(set(begun)) == 3
    assert set(begun) > {3, 4}, "one of the three that are alike, and both others"
    assert farthest(["!!!", "???"], [0], 1, seed=1) == [1], "texts without a word can be compared"


def test_a_mix_is_uncertain_then_diverse_then_by_chance() -> None:
    doubts = [0.1, 0.9, 0.4, 0.2, 0.0]
    mix = {"uncertain": 1.0, "diverse": 1.0, "random": 1.0}
    found = choose(TEXTS, doubts, count=3, weights=mix, seed=3)
    assert found[0] == (1, "uncertain")
    assert found[1] in ((3, "diverse"), (4, "diverse"))
    assert found[2][1] == "random"
    assert len({index for index, _ in found}) == 3
    assert found == choose(TEXTS, doubts, count=3, weights=mix, seed=3)
    drawn = {choose(TEXTS, doubts, count=3, weights=mix, seed=seed)[2][0] for seed in range(20)}
    assert len(drawn) == 3, "what is left over is drawn from, evenly"
    only = {"uncertain": 1.0, "diverse": 0.0, "random": 0.0}
    assert [index for index, _ in choose(TEXTS, doubts, count=9, weights=only, seed=3)] == [1, 2, 3, 0, 4]
    assert [index for index, _ in choose(TEXTS, [0.5] * 5, count=2, weights=only, seed=3)] == [0, 1]
