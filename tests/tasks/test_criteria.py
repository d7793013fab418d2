"""Claims are decided by the paired test: direction, interval and adjusted p-value, each by hand."""

from __future__ import annotations

from typing import Any

import pytest

from odin_slm.tasks.criteria import holm, improvements
from odin_slm.tasks.metric import Metric

MORE = Metric("more", "more is better", ("more",))
LESS = Metric("less", "less is better", ("less",), higher_is_better=False)


def results(**changes: tuple[float, list[float], float]) -> dict[str, Any]:
    """Results of a base that scores 0.5 throughout."""
    return {
        **{name: 0.5 + value for name, (value, _, _) in changes.items()},
        "base": dict.fromkeys(changes, 0.5),
        "difference": {n: {"value": v, "interval": i, "p_value": p} for n, (v, i, p) in changes.items()},
        "comparison": "fine-tuned minus base, paired by document",
    }


def test_an_improvement_is_signed_so_that_more_is_better() -> None:
    found = improvements(
        results(more=(0.2, [0.1, 0.3], 0.001), less=(-0.2, [-0.3, -0.1], 0.001)), (MORE, LESS), significance=0.05
    )
    assert [f["improvement"] for f in found] == pytest.approx([0.2, 0.2])
    assert [f["interval"] for f in found] == [pytest.approx([0.1, 0.3])] * 2
    assert [(f["base"], f["fine_tuned"]) for f in found] == [(0.5, pytest.approx(0.7)), (0.5, pytest.approx(0.3))]
    assert [f["met"] for f in found] == [True, True]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((0.1, [-0.01, 0.2], 0.01), "chance"),  # the interval holds 0
        ((0.1, [0.01, 0.2], 0.2), "chance"),  # so does chance
        ((-0.1, [-0.2, -0.01], 0.001), "worse than the base"),
    ],
)
def test_a_figure_that_is_only_higher_meets_nothing(change: tuple[float, list[float], float], why: str) -> None:
    (found,) = improvements(results(more=change), (MORE,), significance=0.05)
    assert found["met"] is False
    assert why in found["why"]


def test_several_claims_make_each_harder() -> None:
    changes = {"more": (0.1, [0.01, 0.2], 0.03), "less": (0.0, [-0.1, 0.1], 0.9)}
    alone, *_ = improvements(results(more=changes["more"]), (MORE,), significance=0.05)
    among, _ = improvements(results(**changes), (MORE, LESS), significance=0.05)
    assert (alone["met"], among["met"]) == (True, False)
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_without_a_base_nothing_is_met() -> None:
    given = {"base": None, "difference": None, "comparison": "there are no predictions of the base model"}
    (found,) = improvements(given, (MORE,), significance=0.05)
    assert found["met"] is False
    assert found["why"] == "not tested: there are no predictions of the base model"
