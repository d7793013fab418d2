"""Asking a champion of other data for its answers to another model's test set, so that the two can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from odin_slm.tracking.promotion import Champion, obstacle

if TYPE_CHECKING:
    from odin_slm.inference.reading import Question
    from odin_slm.inference.served_model import ServedModel

_KEPT = ("id", "source", "document_id", "group", "manifest_sha256", "surface_forms", "input", "gold", "decoding")


def rescore(
    champion: Champion | None,
    predictions: Sequence[Mapping[str, Any]],
    manifest_sha256: str | None,
    *,
    batch_size: int,
    max_new_tokens: int | Literal["auto"],
) -> list[dict[str, Any]]:
    """Let a champion of other data extract from a model's test texts, with the same decoding, at its operating point.

    It is asked as it was trained to be, and for a corpus that it does not know with that corpus' own instruction.

    Args:
        champion: The champion, or None.
        predictions: Rows of the model's predictions file.
        manifest_sha256: Hash of the manifest of the model's data.
        batch_size: Outputs decoded together.
        max_new_tokens: Budget of an output in tokens; ``auto`` as in evaluation.

    Returns:
        For every row its texts and provenance with the champion's ``prediction``, ``finished`` and ``tokens``, and
        ``champion``: its version. None where there is no champion of the registry, or where the predictions that it
        has can be compared.

    Raises:
        ServingError: The champion cannot be fetched.
        AdapterError, BaseModelError: Its adapter or base cannot be loaded, or they do not fit.
        RecordTooLongError: A text does not fit into its context.
    """
    if champion is None or champion.model is None or not obstacle(predictions, champion, manifest_sha256):
        return []
    from odin_slm.inference.generation import progress
    from odin_slm.inference.reading import ask

    model = champion.model()
    questions = [_question(model, row) for row in predictions]
    budget = _budget_for_gold(model, questions, predictions) if max_new_tokens == "auto" else max_new_tokens
    with progress("Generating, champion", len(predictions)) as on_progress:
        outputs = ask(
            model.base,
            model.adapter,
            questions,
            names=[row["id"] for row in predictions],
            batch_size=batch_size,
            max_new_tokens=budget,
            precision=predictions[0].get("precision", "fp32") if predictions else "fp32",
            on_progress=on_progress,
        )
    return [
        {
            **{name: row[name] for name in _KEPT if name in row},
            "prediction": output.text,
            "finished": output.finished,
            "tokens": output.tokens,
            "champion": champion.version,
        }
        for row, output in zip(predictions, outputs, strict=True)
    ]


def _budget_for_gold(model: ServedModel, questions: Sequence[Question], rows: Sequence[Mapping[str, Any]]) -> int:
    from odin_slm.models.tokens import output_budget

    pairs = zip(questions, rows, strict=True)
    return output_budget(model.base, [model.task.written(q.instruction, q.text, row["gold"]) for q, row in pairs])


def _question(model: ServedModel, row: Mapping[str, Any]) -> Question:
    """Return what a model is asked about a row: as it was trained to be asked about its corpus, or by default."""
    from odin_slm.inference.reading import Question, instruction_of

    source = row.get("source")
    if source not in {*model.instructions, *model.task.sources}:
        source = model.default_source
    task = model.task if row.get("decoding") == "constrained" else None
    return Question(row["input"], instruction_of(model.task, model.instructions, source), task, model.calibrator)
