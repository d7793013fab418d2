"""What comes back from an annotation tool, and what may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from odin_slm.config.parameters import CombinationParams, IngestionParams
from odin_slm.core.document import Document, Mention, surface_concept
from odin_slm.core.errors import OdinError, ReviewError
from odin_slm.core.hashing import sha256_text
from odin_slm.corpora.own.block import OwnCorpus
from odin_slm.datasets.own_corpora import RawOwnCorpus
from odin_slm.pipelines.combination.nodes import place_documents
from odin_slm.review.returned import provenance, take_back

NOTE, OTHER = "Aspirin caused a rash.", "Warfarin caused a cough."
MENTION = Mention(0, 7, "Aspirin", "Drug", (surface_concept("Aspirin"),))


def known(text: str, pmid: str | None, split: str | None) -> dict[str, Any]:
    return {"text_sha256": sha256_text(text), "pmid": pmid, "split": split}


MANIFEST = {
    "model": {"source": "adapter", "digest": "sha256:0"},
    "made": "2026-01-01T00:00:00+00:00",
    "parameters": {"review": {"mix": {"uncertain": 1.0}, "seed": 3, "count": 2}},
    "documents": {"ade-7-1": known(NOTE, "7", None), "new": known(OTHER, None, "train")},
}


def document(name: str, text: str) -> Document:
    return Document(f"checked-{name}", text, "checked", f"checked-{name}", mentions=(MENTION,))


def test_a_document_is_known_by_its_text_whatever_the_tool_calls_it() -> None:
    found = take_back([document("17", NOTE), document("new", OTHER)], MANIFEST)
    assert found == [
        replace(document("ade-7-1", NOTE), pmid="7", split=None),
        replace(document("new", OTHER), split="train"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("new", OTHER + " ", "its text is not the one that was given"),
        ("ade-7-1", OTHER.lower(), "its text is not the one that was given"),
        ("test-1", "A test document.", "none of the 2 documents .* one that validates or tests is never chosen"),
    ],
)
def test_an_edited_text_and_a_document_that_was_not_chosen_are_refused(name: str, text: str, said: str) -> None:
    with pytest.raises(ReviewError, match=rf"corpus checked, document checked-{name}: .*{said}"):
        take_back([document("17", NOTE), document(name, text)], MANIFEST)


def test_a_document_of_another_review_is_told_to_name_that_reviews_manifest() -> None:
    with pytest.raises(ReviewError, match=r"Name the review\.json that was written with it, or take it out"):
        take_back([document("5", "A text of another round.")], MANIFEST)


def test_provenance_says_which_model_when_and_how() -> None:
    assert provenance(MANIFEST) == {
        "model": {"source": "adapter", "digest": "sha256:0"},
        "made": "2026-01-01T00:00:00+00:00",
        "mix": {"uncertain": 1.0},
        "seed": 3,
    }


def test_what_was_corrected_never_validates_or_tests() -> None:
    blocks = {
        "checked": {
            "folder": "x",
            "files": ["it.jsonl"],
            "format": "jsonl",
            "entities": ["Drug"],
            "review": "review.json",
        }
    }
    ingestion = IngestionParams.model_validate({"corpora": ["checked"], "own_corpora": blocks})
    corrected = replace(document("ade-7-1", NOTE), pmid="7").to_dict()
    everything = CombinationParams(validation_ratio=0.0, test_ratio=0.0)
    placed = place_documents([corrected], everything, ingestion)
    assert placed["checked-ade-7-1"]["split"] == "train"
    official = replace(document("x", NOTE), source="other", id="other-1", pmid="7", split="test").to_dict()
    with pytest.raises(ReviewError, match=r"checked-ade-7-1: it was corrected .* and is a test document here.*seed"):
        place_documents([corrected, official], everything, ingestion)


@pytest.mark.parametrize("content", [None, "{", "{}", "[1]", "3"])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "review.json").write_text(content)
    block = OwnCorpus.model_validate({"folder": "x", "files": ["it.jsonl"], "format": "jsonl", "review": "review.json"})
    with pytest.raises(OdinError, match=r"review\.json: .* own_corpora\.checked\.review"):
        RawOwnCorpus("checked", block, tmp_path).review()
