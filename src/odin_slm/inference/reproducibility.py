"""The reproducibility check: a model is asked again for some of its predictions, which the same weights give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.models.base_model import BaseModel
from odin_slm.tasks import Task


def choose_questions(
    predictions: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], number: int
) -> list[dict[str, Any]]:
    """Choose predictions to ask for again, from short to long ones.

    Args:
        predictions: Rows of the predictions file.
        records: The records that were predicted, with their instructions.
        number: How many, at most. Outputs that ended by themselves go first; where there are none, one is cut at the
            length that it had.

    Returns:
        ``id``, ``instruction``, ``input``, ``decoding``, ``budget`` (tokens, end included), ``prediction`` and
        ``precision``.
    """
    instructions = {record["id"]: record["instruction"] for record in records}
    known = [row for row in predictions if row["id"] in instructions]
    rows = [row for row in known if row["finished"]] or known[:1]
    rows = sorted(rows, key=lambda row: (row["tokens"], row["id"]))
    step = max(1, len(rows) // max(1, number))
    return [
        {
            "id": row["id"],
            "instruction": instructions[row["id"]],
            "input": row["input"],
            "decoding": row["decoding"],
            "budget": row["tokens"] + (1 if row["finished"] else 0),
            "prediction": row["prediction"],
            "precision": row.get("precision", "fp32"),
        }
        for row in rows[::-step][:number]
    ]


def reproduce(
    base: BaseModel,
    adapter: Path,
    questions: Sequence[Mapping[str, Any]],
    task: Task,
    calibrator: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return what the adapter answers to questions, decoded as they were, and read as its calibrator says.

    Raises:
        AdapterError: The adapter does not load, or does not fit the base.
        BaseModelError: The base cannot be loaded.
    """
    from odin_slm.inference.reading import Question, ask

    if not questions:
        return []
    asked = task.with_calibrator(calibrator)
    outputs = ask(
        base,
        adapter,
        [
            Question(q["input"], q["instruction"], asked if q["decoding"] == "constrained" else None, calibrator)
            for q in questions
        ],
        names=[question["id"] for question in questions],
        batch_size=len(questions),
        max_new_tokens=max(question["budget"] for question in questions),
        precision=questions[0].get("precision", "fp32"),
    )
    return [output.text for output in outputs]
