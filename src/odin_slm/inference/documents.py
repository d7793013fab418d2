"""Test documents read whole, as the service reads them: in windows that overlap, which are joined afterwards.

Evaluation asks for records, and a long document is several of them, cut where training cuts. The service cuts elsewhere
and joins what the windows say, which :meth:`odin_slm.tasks.Task.score_documents` scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.config.parameters.base import Precision
from odin_slm.inference.generation import progress
from odin_slm.inference.reading import DEFAULTS, Question, TokenBudget, Window, all_instructions, ask
from odin_slm.models.base_model import BaseModel, context_of, load_tokenizer
from odin_slm.tasks import Task


def read_documents(
    base: BaseModel,
    adapter: Path | None,
    records: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    task: Task,
    *,
    batch_size: int = DEFAULTS["batch_size"],
    max_new_tokens: int = DEFAULTS["max_new_tokens"],
    window_tokens: int = DEFAULTS["window_tokens"],
    overlap: int = DEFAULTS["overlap"],
    backend: str = "transformers",
    precision: Precision = "fp32",
    calibrator: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Read the documents that test records come from, under the decoding of their predictions.

    A document of one record and one window is not read again: its window's output is the record's prediction.

    Args:
        base: The base model.
        adapter: Folder of a LoRA adapter; None for the base alone.
        records: Test records.
        predictions: Rows of the predictions file; records without one are left out.
        task: What the model was taught. One that does not score documents has none read.
        batch_size: Windows decoded together.
        max_new_tokens: Budget of an output.
        window_tokens: Tokens of a window's text.
        overlap: Sentences that neighbouring windows share.
        backend: ``transformers`` or ``vllm``.
        precision: See :func:`odin_slm.inference.reading.ask`.
        calibrator: The model's, with the operating point that the predictions were made at.

    Returns:
        One row per document, by id: ``id``, ``source``, ``text`` (its records' inputs, joined by spaces), ``gold``
        (their outputs), ``decoding``, :attr:`odin_slm.tasks.Task.reading`, and ``windows``, each of a :class:`.Window`.
    """
    if not task.scores_documents:
        return []
    asked = {record["source"]: record["instruction"] for record in records}
    max_new_tokens = task.output_tokens(max_new_tokens, window_tokens)
    budget = TokenBudget(
        load_tokenizer(base), context_of(base), max_new_tokens, window_tokens, all_instructions(task, asked)
    )
    documents, unread = _documents(records, predictions, task, lambda text: budget.windows(text, overlap), calibrator)
    with progress("Reading documents whole", len(unread)) as on_progress:
        outputs = ask(
            base,
            adapter,
            [question for question, *_ in unread],
            names=[f"{document['id']}, characters {begin}-{end}" for _, document, begin, end in unread],
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            backend=backend,
            precision=precision,
            on_progress=on_progress,
        )
    for (_, document, begin, end), output in zip(unread, outputs, strict=True):
        document["windows"].append(Window(begin, end, output.text, output.finished, output.tokens).to_dict())
    return documents


def _documents(
    records: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    task: Task,
    cut: Callable[[str], list[tuple[int, int]]],
    calibrator: Mapping[str, Any] | None,
) -> tuple[list[dict[str, Any]], list[tuple[Question, dict[str, Any], int, int]]]:
    """Return the documents; and for each window that is not read yet its question, document, begin and end."""
    rows = {row["id"]: row for row in predictions}
    documents: list[dict[str, Any]] = []
    unread: list[tuple[Question, dict[str, Any], int, int]] = []
    for name, own in _by_document([record for record in records if record["id"] in rows]):
        first, row = own[0], rows[own[0]["id"]]
        text = " ".join(record["input"] for record in own)
        document = {"id": name, "source": first["source"], "text": text, "gold": [r["output"] for r in own]}
        document |= {name: row[name] for name in ("group",) if name in row}
        document |= {"decoding": row["decoding"], **task.reading, "windows": []}
        documents.append(document)
        spans = cut(text)
        if len(own) == len(spans) == 1:
            window = Window(0, len(text), row["prediction"], row["finished"], row["tokens"])
            document["windows"].append(window.to_dict())
            continue
        grammars_of = task if row["decoding"] == "constrained" else None
        for begin, end in spans:
            question = Question(text[begin:end], first["instruction"], grammars_of, calibrator)
            unread.append((question, document, begin, end))
    return documents, unread


def _by_document(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return each document with its records in text order: by the number of the window in their ids."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: (len(record["id"]), record["id"])):
        found.setdefault(record["document_id"], []).append(record)
    return sorted(found.items())
