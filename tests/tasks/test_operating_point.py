"""The operating point that lies in a calibrator, and what it may be fitted for."""

import pytest

from odin_slm.core.errors import AdapterError
from odin_slm.tasks.operating_point import KEY, VERSION, point_of, required_precision


def test_a_calibrator_without_a_point_leaves_decoding_as_it_is() -> None:
    assert not point_of(None)
    assert not point_of({})
    assert not point_of({"records": 3, "entity": {"method": "none"}})


def test_the_point_is_what_lies_in_the_calibrator() -> None:
    point = {"version": VERSION, "threshold": {"entity": 0.4}, "pairs": {"causes": 0.5}}
    assert point_of({"records": 3, KEY: point}) == point


def test_the_point_of_a_later_version_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"calibrator.json, operating_point: .* has version 2, expected 1"):
        point_of({KEY: {"version": VERSION + 1}})


@pytest.mark.parametrize(
    ("objective", "precision"), [("f1", None), ("precision=0.9", 0.9), ("precision=.75", 0.75), ("precision=1.0", 1.0)]
)
def test_objectives_name_f1_or_a_precision(objective: str, precision: float | None) -> None:
    assert required_precision(objective) == precision


@pytest.mark.parametrize(
    "objective",
    ["", "recall=0.9", "precision", "precision=90", "precision=1.5", "precision=0.0", "precision=.00", "F1"],
)
def test_another_objective_is_refused_with_those_that_there_are(objective: str) -> None:
    with pytest.raises(ValueError, match=r"name f1, precision=0\.9"):
        required_precision(objective)
