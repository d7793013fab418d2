"""Adapter, data and figures belong together, or are neither evaluated nor released together."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from odin_slm.core.errors import PredictionsError
from odin_slm.core.hashing import canonical_json, sha256_text
from odin_slm.pipelines.evaluation.nodes import check_adapter
from odin_slm.release.provenance import is_of, is_own_test_set, other_splits, provenance_problems, splits_learned

TRAIN, VAL = [{"id": "a"}], [{"id": "b"}]
MANIFEST = {"outputs": {**splits_learned(TRAIN, VAL), "test.json": "0" * 64}}
OWN = {"test_set": {"manifest_sha256": sha256_text(canonical_json(MANIFEST))}}
LEARNED = {"data": splits_learned(TRAIN, VAL)}


def test_what_belongs_together_has_no_problems() -> None:
    assert list(provenance_problems(LEARNED, OWN, MANIFEST)) == []
    assert list(provenance_problems(LEARNED, None, MANIFEST)) == []
    further = LEARNED | {"from_adapter": {"learned": [LEARNED["data"]]}}
    assert list(provenance_problems(further, OWN, MANIFEST)) == []
    assert is_own_test_set(OWN, MANIFEST)


@pytest.mark.parametrize(
    ("state", "results", "expected"),
    [
        ({"data": splits_learned(TRAIN[:0], VAL)}, OWN, "another train.json than"),
        ({"data": splits_learned(VAL, TRAIN)}, OWN, "another train.json and another val.json than"),
        (LEARNED | {"from_adapter": {"learned": None}}, OWN, "splits that are not known"),
        (LEARNED | {"from_adapter": {"learned": [splits_learned(VAL, TRAIN)]}}, OWN, "other splits than manifest.json"),
        (LEARNED, {"test_set": {"manifest_sha256": None}}, "figures are of another test set"),
        (LEARNED, {"test_set": {"manifest_sha256": "0" * 64}}, "figures are of another test set"),
    ],
)
def test_what_does_not_is_named(state: dict[str, Any], results: dict[str, Any], expected: str) -> None:
    (problem,) = provenance_problems(state, results, MANIFEST)
    assert expected in problem


def test_figures_of_another_adapter_are_named() -> None:
    scored = {**OWN, "adapter_sha256": "1" * 64}
    assert list(provenance_problems(LEARNED, scored, MANIFEST, "1" * 64)) == []
    (problem,) = provenance_problems(LEARNED, scored, MANIFEST, "2" * 64)
    assert "the figures are of another adapter" in problem
    assert list(provenance_problems(LEARNED, OWN, MANIFEST, "2" * 64)) == [], "an evaluation that noted none"


def test_a_training_from_before_this_was_noted_is_taken_at_its_word() -> None:
    assert other_splits({}, MANIFEST) == other_splits(None, MANIFEST) == other_splits(LEARNED, None) == []
    assert is_of({}, "0" * 64)
    assert not is_of({"adapter_sha256": "1" * 64}, "0" * 64)
    assert not is_of(None, "0" * 64)


@pytest.mark.parametrize("own", [True, False])
def test_an_adapter_is_not_scored_on_a_test_split_of_other_data(own: bool, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    weights = hashlib.sha256(b"weights" if own else b"of another adapter").hexdigest()
    state = {"data": splits_learned(VAL, TRAIN), "adapter_sha256": weights}
    record = {"id": "c", "instruction": "", "input": "", "output": "", "manifest_sha256": "0" * 64}
    from_elsewhere = {key: value for key, value in record.items() if key != "manifest_sha256"}
    if own:
        with pytest.raises(PredictionsError) as refusal:
            check_adapter(tmp_path, [record], state, MANIFEST)
        assert "another train.json and another val.json" in str(refusal.value)
        assert "test_data=FILE.json" in str(refusal.value)
    else:
        assert check_adapter(tmp_path, [record], state, MANIFEST) == tmp_path
    assert check_adapter(tmp_path, [from_elsewhere], state, MANIFEST) == tmp_path
    assert check_adapter(tmp_path, [record], state, None) == tmp_path
