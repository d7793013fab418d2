"""Nodes of the review pipeline."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from odin_slm.config.parameters import ExtractionParams, ReviewParams
from odin_slm.core.document import GivenDocument
from odin_slm.core.errors import ExtractionError, MissingInputError
from odin_slm.core.hashing import sha256_text
from odin_slm.inference.served_model import ServedModel
from odin_slm.review.candidates import admit, draw
from odin_slm.review.exports import FORMATS
from odin_slm.review.queue import task_of
from odin_slm.review.selection import choose, uncertainty

_log = logging.getLogger(__name__)
Documents = Callable[[str, str], Iterator[GivenDocument]]


def gather_candidates(
    review_documents: Documents | None,
    documents: list[dict[str, Any]],
    splits: dict[str, dict[str, Any]],
    params: ReviewParams,
    extraction: ExtractionParams,
) -> dict[str, Any]:
    """Draw documents that may be reviewed: new texts, or training documents; none that validates or tests.

    Args:
        review_documents: Reads new texts; None takes the training documents.
        documents: All documents of the experiment.
        splits: Document id -> where it lies.
        params: How many, what counts as a near-duplicate.
        extraction: Names of the fields that hold text and id.

    Returns:
        ``documents``, and ``left_out``: how many, by reason.

    Raises:
        MissingInputError: None may be reviewed.
    """
    pool: Iterator[GivenDocument] = (
        review_documents(extraction.text_field, extraction.id_field)
        if review_documents
        else (
            GivenDocument(document["id"], document["source"], number, document["text"])
            for number, document in enumerate(documents, start=1)
            if splits[document["id"]]["split"] == "train" and document["source"] != "synthetic"
        )
    )
    drawn, unreadable = draw(pool, params.candidates, params.seed)
    found, left_out = admit(drawn, documents, splits, near_duplicate=params.near_duplicate, seed=params.seed)
    left_out = {"unreadable": unreadable, **left_out}
    if not found:
        raise MissingInputError(
            f"no document may be reviewed (left out: {_listed(left_out)}).",
            where="review",
            fix="Name other texts with --params documents=FILE_OR_DIR.",
        )
    if any(left_out.values()):
        _log.warning("%d documents may be reviewed; left out: %s.", len(found), _listed(left_out))
    return {"documents": found, "left_out": left_out}


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count) or "none"


def predict_candidates(
    review_candidates: dict[str, Any], extraction_model: ServedModel, params: ExtractionParams
) -> list[dict[str, Any]]:
    """Read the candidates as the extraction pipeline reads documents, with calibrated confidence.

    Returns:
        One row per document that could be read, in their order; see :meth:`odin_slm.inference.batch.Job.extract`.

    Raises:
        ExtractionError: The model was taught a task without entities, or can read none of them.
    """
    from odin_slm.inference.batch import Job, extract_here
    from odin_slm.inference.batch_ray import extract_with_ray
    from odin_slm.inference.generation import progress

    if "entities" not in extraction_model.task.options():
        raise ExtractionError(
            f"the task {extraction_model.task.name} marks nothing in a text, so that nothing can be corrected there.",
            where=f"model {extraction_model.source}",
            fix="Review with a model that extracts entities.",
        )
    given = [
        GivenDocument(one["id"], one["source"], number, one["text"])
        for number, one in enumerate(review_candidates["documents"])
    ]
    job = Job(extraction_model, params.model_copy(update={"keep_text": True}))
    extract = extract_with_ray if params.engine == "ray" else extract_here
    rows, failed = [], []
    with progress("Reading candidates", len(given)) as on_progress:
        for _, result in extract(job, lambda *_: iter(given), len(given), (), on_progress):
            if result is not None:
                rows += result["rows"]
                failed += result["failed"]
    if failed:
        _log.warning(
            "%d candidates cannot be read; the first one, %s: %s", len(failed), failed[0]["id"], failed[0]["error"]
        )
    if not rows:
        raise ExtractionError(f"{failed[0]['error']}", where=f"document {failed[0]['id']}", fix="Name other texts.")
    return sorted(rows, key=lambda row: row["record"])


def choose_documents(
    review_candidates: dict[str, Any],
    review_predictions: list[dict[str, Any]],
    extraction_model: ServedModel,
    params: ReviewParams,
    extraction: ExtractionParams,
) -> Callable[[str], tuple[dict[str, str], dict[str, Any]]]:
    """Choose what is worth correcting, by a mix of uncertain, diverse and random.

    Returns:
        A function of the moment (ISO 8601). It returns file name -> text, and the manifest: ``model``, ``made``,
        ``parameters``, ``types``, ``left_out``, ``candidates``, and ``documents``: name -> its place in the source, the
        sha256 of its text, its reason and uncertainty.
    """
    doubts = [uncertainty(row) for row in review_predictions]
    texts = [row["text"] for row in review_predictions]
    weights = params.mix.model_dump()
    chosen = choose(texts, doubts, count=params.count, weights=weights, seed=params.seed)
    places = {one["id"]: one for one in review_candidates["documents"]}
    rows = []
    known: dict[str, dict[str, Any]] = {}
    for index, reason in chosen:
        row = review_predictions[index]
        place = {key: places[row["id"]][key] for key in ("source", "record", "from", "pmid", "split")}
        why = {"reason": reason, "uncertainty": round(doubts[index], 4)}
        known[row["id"]] = {**place, "text_sha256": sha256_text(row["text"]), **why}
        rows.append((row, {**why, **place, "model": extraction_model.digest}))
    manifest = {
        "model": {"source": extraction_model.source, "digest": extraction_model.digest},
        "parameters": {"review": params.model_dump(mode="json"), "extraction": extraction.model_dump(by_alias=True)},
        "types": _types(extraction_model, extraction.schema_name),
        "left_out": review_candidates["left_out"],
        "candidates": len(review_predictions),
        "documents": known,
    }
    return partial(_files, rows, manifest)


def _files(
    rows: list[tuple[dict[str, Any], dict[str, Any]]], manifest: dict[str, Any], made: str
) -> tuple[dict[str, str], dict[str, Any]]:
    tasks = [task_of(row, {**meta, "made": made}) for row, meta in rows]
    write = FORMATS[manifest["parameters"]["review"]["format"]]
    return write(tasks, manifest["types"]), {"made": made, **manifest}


def _types(model: ServedModel, source: str) -> dict[str, Any]:
    """Return what a model looks for: ``entities``, and ``relations`` as relation, head type and tail type."""
    options = model.task.options()
    named = model.describe_source(source or model.default_source)
    entities = named.get("entities") or options["entities"]
    relations = [
        [relation["type"], head, tail]
        for relation in options["relations"]
        for head in relation["head"]
        for tail in relation["tail"]
        if relation["type"] in named.get("relations", [relation["type"]]) and {head, tail} <= set(entities)
    ]
    return {"entities": list(entities), "relations": relations}
