"""A corrected review as a corpus: only what was chosen comes back, with the text that was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from odin_slm.core.document import Document
from odin_slm.core.errors import ReviewError
from odin_slm.core.hashing import sha256_text


def take_back(documents: Sequence[Document], manifest: Mapping[str, Any]) -> list[Document]:
    """Check the documents of a corrected review, and give them the ids, PubMed ids and splits that they had.

    Tools number documents anew, so documents are told apart by their texts.

    Args:
        documents: What was read of the annotation tool's files.
        manifest: ``review.json``.

    Returns:
        The documents: training documents, or with the official split of the corpus that they come from.

    Raises:
        ReviewError: A document is none of those that were chosen, or its text was changed. No validation or test
            document is ever chosen, so that none comes in this way.
    """
    chosen = manifest["documents"]
    by_text = {known["text_sha256"]: (name, known) for name, known in chosen.items()}
    found = []
    for document in documents:
        name, known = by_text.get(sha256_text(document.text), (document.id.removeprefix(f"{document.source}-"), None))
        if known is None:
            where = f"corpus {document.source}, document {document.id}"
            if name in chosen:
                fix = "Restore its text: a review corrects annotations alone."
                raise ReviewError("its text is not the one that was given for review.", where=where, fix=fix)
            raise ReviewError(
                f"it is none of the {len(chosen)} documents that were chosen for review; one that validates or tests "
                "is never chosen.",
                where=where,
                fix="Name the review.json that was written with it, or take it out of the corpus.",
            )
        place = {"pmid": known["pmid"] or document.pmid, "split": known["split"]}
        found.append(replace(document, id=f"{document.source}-{name}", **place))
    return found


def provenance(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a parse report says of a review: model, moment, mix and seed; nobody's name."""
    review = manifest["parameters"]["review"]
    return {"model": manifest["model"], "made": manifest["made"], "mix": review["mix"], "seed": review["seed"]}
