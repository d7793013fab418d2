"""Rows of a predictions file, whatever the task: what they are of, and whether two files may be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from odin_slm.core.document import GENERATED_SOURCES, is_synthetic
from odin_slm.core.errors import PredictionsError
from odin_slm.core.hashing import sha256_of_json

Rows = Sequence[Mapping[str, Any]]
"""Rows of a predictions file: ``id``, ``input``, ``gold``, ``prediction`` (texts), provenance, and the task's own."""


def require_readable(rows: Rows) -> None:
    """Check that rows can be scored.

    Raises:
        PredictionsError: There is no row, a text is missing, or an id occurs twice.
    """
    if not rows:
        raise PredictionsError("there is no prediction to score.", fix="Run the evaluation pipeline on a test set.")
    for number, row in enumerate(rows, start=1):
        for name in ("id", "input", "gold", "prediction"):
            if not isinstance(row.get(name), str):
                raise PredictionsError(
                    f"expected a text {name!r}, found {row.get(name)!r}.",
                    where=f"predictions, row {number}",
                    fix="Make the predictions again with the evaluation pipeline.",
                )
    repeated, times = Counter(row["id"] for row in rows).most_common(1)[0]
    if times > 1:
        raise PredictionsError(f"the id {repeated} occurs more than once.", fix="Give every record its own id.")


def group_of(row: Mapping[str, Any]) -> str:
    """Return what the examples of one abstract share: ADE's sentences are documents, and yet depend on each other."""
    return str(row.get("group") or row.get("document_id") or row["id"])


def not_comparable(predictions: Rows, others: Rows | None, name: str = "base model") -> str | None:
    """Return why two files must not be compared, or None."""
    if not others:
        return f"there are no predictions of the {name}"
    mine, theirs = _fingerprint(predictions), _fingerprint(others)
    if mine != theirs:
        return f"the {name}'s predictions are of other examples (sha256 {theirs[:12]}…, here {mine[:12]}…)"
    here, there = _manifests(predictions), _manifests(others)
    if here != there:
        return (
            f"the {name}'s predictions are of other data (manifest sha256 {_shortened(there)}, here {_shortened(here)})"
        )
    return None


def _fingerprint(rows: Rows) -> str:
    return sha256_of_json(sorted([str(row.get(name)) for name in ("id", "input", "gold")] for row in rows))


def _manifests(rows: Rows) -> set[str | None]:
    return {row.get("manifest_sha256") for row in rows}


def _shortened(digests: set[str | None]) -> str:
    return " and ".join(sorted(f"{digest[:12]}…" if digest else "unknown" for digest in digests))


def test_set_of(rows: Rows, unit: str) -> dict[str, Any]:
    """Return what the examples are: description, counts, sources, hashes, and whether they are synthetic.

    Args:
        rows: Rows of the predictions file.
        unit: What a document is called, :attr:`odin_slm.tasks.Task.unit`; noted too.
    """
    documents = {row.get("document_id") or row["id"] for row in rows}
    generated = {row.get("document_id") or row["id"] for row in rows if row.get("source") in GENERATED_SOURCES}
    written = {name for name in generated if any(is_synthetic(part) for part in name.split("-"))}
    sources = Counter(row.get("source") or "unknown" for row in rows)
    names = " and ".join([", ".join(sorted(sources)[:-1]), sorted(sources)[-1]] if len(sources) > 1 else sources)
    manifests = _manifests(rows)
    manifest = manifests.pop() if len(manifests) == 1 else None
    if written == documents:
        description = f"synthetic {unit}s in the format of {names}"
    elif written:
        description = f"{unit}s of {names}, {len(written)} of them synthetic"
    else:
        description = f"{unit}s of {names}"
    # Only of the experiment's own test split is it known that no document of it was learned from.
    description = f"Held-out {description}" if manifest else description[0].upper() + description[1:]
    return {
        "description": description,
        "examples": len(rows),
        "documents": len(documents),
        "groups": len({group_of(row) for row in rows}),
        "unit": unit,
        "sha256": _fingerprint(rows),
        "manifest_sha256": manifest,
        "synthetic": bool(written),
        "sources": dict(sorted(sources.items())),
    }


def documents_of(predictions: Rows, documents: Rows) -> Rows:
    """Return documents that were read whole, or none where they are not of the model of a predictions file.

    That file may be exchanged while the documents lie there from before. Those of one record and one window tell: their
    output is the record's prediction.
    """
    outputs = {row.get("document_id", row["id"]): row["prediction"] for row in predictions}
    short = [one for one in documents if len(one["gold"]) == len(one["windows"]) == 1]
    return documents if all(outputs.get(one["id"]) == one["windows"][0]["output"] for one in short) else []


def training_set_of(records: Rows | None) -> dict[str, Any] | None:
    """Return how many records of which sources a model learned from; None where that is not known."""
    if not records:
        return None
    return {
        "examples": len(records),
        "sources": dict(sorted(Counter(r.get("source", "unknown") for r in records).items())),
    }
