"""Whether an adapter, the data that it learned from and the figures measured on it belong together.

Each is a file that another run can replace. What a training notes of its splits and weights, a manifest of its splits
and an evaluation of its test set tells whether they still do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from odin_slm.core.hashing import sha256_of_json

SPLITS = ("train.json", "val.json")
"""The splits that a training reads, by their files."""


def splits_learned(train: Any, val: Any) -> dict[str, str]:
    """Return the sha256 of the splits that a training reads, as the manifest's ``outputs`` gives them."""
    return {file: sha256_of_json(records) for file, records in zip(SPLITS, (train, val), strict=True)}


def other_splits(training_state: Mapping[str, Any] | None, manifest: Mapping[str, Any] | None) -> list[str]:
    """Return the splits that a training read and that the manifest does not describe.

    None where that cannot be told: there is no manifest, or the training is from before splits were noted.
    """
    learned = (training_state or {}).get("data")
    if not learned or not manifest:
        return []
    return [file for file in SPLITS if learned.get(file) != manifest["outputs"].get(file)]


def is_of(training_state: Mapping[str, Any] | None, adapter_sha256: str) -> bool:
    """Whether a training's state tells of an adapter; one from before adapters were noted may tell of any."""
    return training_state is not None and training_state.get("adapter_sha256", adapter_sha256) == adapter_sha256


def is_own_test_set(results: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether figures were measured on the test split that a manifest describes, and not on records from elsewhere."""
    return results["test_set"].get("manifest_sha256") == sha256_of_json(manifest)


def provenance_problems(
    training_state: Mapping[str, Any],
    results: Mapping[str, Any] | None,
    manifest: Mapping[str, Any],
    adapter_sha256: str | None = None,
) -> Iterator[str]:
    """Say what of a release does not belong together.

    Args:
        training_state: How the adapter was trained.
        results: Figures that it is released with; None where it has none.
        manifest: The data that it is released with.
        adapter_sha256: Hash of the weights that are released; None where only the data are in question.
    """
    if others := other_splits(training_state, manifest):
        yield (
            f"training_state.json: the adapter was trained on another {' and another '.join(others)} than "
            "manifest.json describes; documents of the test split may be among them"
        )
    if "from_adapter" in training_state:
        earlier = training_state["from_adapter"]["learned"]
        if earlier is None or any(other_splits({"data": data}, manifest) for data in earlier):
            yield (
                "training_state.json: the adapter that training went on from was trained on "
                f"{'splits that are not known' if earlier is None else 'other splits than manifest.json describes'}; "
                "documents of the test split may be among them"
            )
    if results is not None and not is_own_test_set(results, manifest):
        yield "evaluation_results.json: the figures are of another test set than the one that manifest.json describes"
    scored = (results or {}).get("adapter_sha256")
    if scored and adapter_sha256 and scored != adapter_sha256:
        yield "evaluation_results.json: the figures are of another adapter than this one; run the evaluation pipeline"
