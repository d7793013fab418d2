"""The canonical JSON of a value, whole or in pieces, is what json writes."""

import json
from typing import Any

import pytest

from odin_slm.core.hashing import canonical_json, canonical_pieces, sha256_of_json, sha256_text
from odin_slm.core.rows import Joined, stored

VALUES: list[Any] = [
    *([], {}, "a\nb", None, 1, [1, 2], [[]], [{}], [()], [{"a": []}], {"a": {}}, {1: 2}, ({"a": 1.5},)),
    {"a": {"b": 1, "c": None, "é\n": "\u2028"}, "d": True},
    [{"a": 1}, {"b": {"c": [1, {"d": 2}]}}, {"e": (1, "f")}],
    {"a": {1: "x", 2: None}, "b": [1, {"c": "d"}]},
]


@pytest.mark.parametrize("value", VALUES)
def test_pieces_are_those_of_the_whole(value: Any) -> None:
    written = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    assert canonical_json(value) == written
    assert sha256_of_json(value) == sha256_text(written)


def test_an_empty_lazy_sequence_is_an_empty_list() -> None:
    for empty in (stored([]), Joined()):
        assert canonical_json(empty) == "[]\n"


def test_a_list_is_written_item_by_item_and_no_number_that_is_none() -> None:
    assert list(canonical_pieces([1, 2])) == ["[\n 1", ",\n 2", "\n]\n"]
    for value in ([{"a": float("nan")}], {"a": {"b": float("inf")}}, float("nan")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json(value)
