"""Asking a model again: for its own answers, which the same weights give, or for those to another model's test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from odin_slm.engines.base_model import BaseModel
from odin_slm.promotion import Champion, obstacle
from odin_slm.prompt import render_prompt

_KEPT = ("id", "source", "document_id", "manifest_sha256", "surface_forms", "input", "gold", "decoding")


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
        ``id``, ``instruction``, ``input``, ``decoding``, ``budget`` (tokens, end included) and ``prediction``.
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
        }
        for row in rows[::-step][:number]
    ]


def replay(base: BaseModel, adapter: Path, questions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the adapter answers to questions, decoded as they were.

    Raises:
        AdapterError: The adapter does not load, or does not fit the base.
        BaseModelError: The base cannot be loaded.
    """
    from odin_slm.engines.constraint import Grammar
    from odin_slm.engines.generation import generate

    if not questions:
        return []
    outputs = generate(
        base,
        adapter,
        [render_prompt(question["instruction"], question["input"]) for question in questions],
        batch_size=len(questions),
        max_new_tokens=max(question["budget"] for question in questions),
        grammars=[
            Grammar.of(question["instruction"], question["input"]) if question["decoding"] == "constrained" else None
            for question in questions
        ],
        names=[question["id"] for question in questions],
    )
    return [output.text for output in outputs]


def rescore(
    champion: Champion | None,
    predictions: Sequence[Mapping[str, Any]],
    manifest_sha256: str | None,
    *,
    batch_size: int,
    max_new_tokens: int | Literal["auto"],
) -> list[dict[str, Any]]:
    """Let a champion of other data extract from a model's test texts, with the same decoding.

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
        AdapterError: Its adapter does not load, or does not fit its base.
        BaseModelError: Its base cannot be loaded.
        RecordTooLongError: A text does not fit into its context.
    """
    if champion is None or champion.model is None or not obstacle(predictions, champion, manifest_sha256):
        return []
    from odin_slm.engines.constraint import Grammar
    from odin_slm.engines.extraction import DEFAULT_SCHEMA, REQUEST_SCHEMAS, instruction_of
    from odin_slm.engines.generation import generate, progress
    from odin_slm.engines.tokens import output_budget

    model = champion.model()
    budget = max_new_tokens
    if budget == "auto":
        budget = output_budget(model.base, [row["gold"] for row in predictions])
    sources = [row["source"] if row.get("source") in REQUEST_SCHEMAS else DEFAULT_SCHEMA for row in predictions]
    asked = [instruction_of(model.instructions, source) for source in sources]
    with progress("Generating, champion", len(predictions)) as on_progress:
        outputs = generate(
            model.base,
            model.adapter,
            [render_prompt(instruction, row["input"]) for instruction, row in zip(asked, predictions, strict=True)],
            batch_size=batch_size,
            max_new_tokens=budget,
            grammars=[
                Grammar.of(instruction, row["input"]) if row.get("decoding") == "constrained" else None
                for instruction, row in zip(asked, predictions, strict=True)
            ],
            names=[row["id"] for row in predictions],
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
