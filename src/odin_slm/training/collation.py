"""Records as token ids and labels: prompts carry no loss, nothing is truncated, and real rows prove the mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odin_slm.core.errors import BackendError, RecordTooLongError
from odin_slm.core.record import Record, full_text
from odin_slm.models.tokens import completion_ids, prompt_ids

IGNORED = -100
"""Label of a token that carries no loss."""


def tokenise(tokenizer: Any, records: Sequence[Record], max_seq_length: int) -> list[dict[str, list[int]]]:
    """Return ``input_ids`` and ``labels`` of each record.

    Only the completion and EOS are labelled; of a record with ``learned``, only these parts of the completion.

    Raises:
        BackendError: A token reaches across the end of a part that is learned.
        RecordTooLongError: Some records are longer than ``max_seq_length``; the message names them.
    """
    rows, long = [], []
    for record in records:
        prompt, completion = full_text(record)
        before, after = prompt_ids(tokenizer, prompt), completion_ids(tokenizer, completion)
        if len(before) + len(after) > max_seq_length:
            long.append(record["id"])
        labels = _learned(tokenizer, record, after) if "learned" in record else after
        rows.append({"input_ids": before + after, "labels": [IGNORED] * len(before) + labels})
    if long:
        raise RecordTooLongError(
            f"{len(long)} of {len(records)} records exceed {max_seq_length} tokens: {', '.join(long[:5])}.",
            where="training.max_seq_length",
            fix="Raise it, or lower ingestion.max_tokens and run kedro run --pipelines data.",
        )
    return rows


def _learned(tokenizer: Any, record: Record, ids: list[int]) -> list[int]:
    """Return the labels of a completion of which only some parts carry loss."""
    labels = [IGNORED] * len(ids)
    for ends in record["learned"]:
        begin, end = (completion_ids(tokenizer, record["output"][:place])[:-1] for place in ends)
        if ids[: len(end)] != end or end[: len(begin)] != begin:
            raise BackendError(
                f"a token reaches across the end of {record['output'][slice(*ends)]!r}.",
                where=f"record {record['id']}",
                fix="Leave out what the task asks beside its records, or choose another base.",
            )
        labels[len(begin) : len(end)] = end[len(begin) :]
    return labels


def check_mask(tokenizer: Any, records: Sequence[Record], rows: Sequence[dict[str, list[int]]]) -> None:
    """Check on up to 256 rows that the loss covers exactly the completion and the end-of-sequence token.

    Raises:
        BackendError: The labelled tokens of a record do not decode to its output and EOS.
    """
    for record, row in list(zip(records, rows, strict=True))[:256]:
        labelled = [label for label in row["labels"] if label != IGNORED]
        text = tokenizer.decode(labelled, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        learned = record.get("learned")
        expected = "".join(record["output"][slice(*ends)] for ends in learned) if learned else None
        if text != (expected or record["output"] + tokenizer.eos_token):
            raise BackendError(
                f"the labelled tokens decode to {text[:80]!r}, not to the output and {tokenizer.eos_token}.",
                where=f"record {record['id']}",
                fix="This tokenizer does not reproduce its input; choose another base.",
            )


class Collator:
    """Pads the rows of a batch on the right to the longest one."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        """Return ``input_ids``, ``labels`` and ``attention_mask``, (rows, longest row) each."""
        import torch

        length = max(len(row["input_ids"]) for row in rows)

        def padded(key: str, filler: int) -> torch.Tensor:
            return torch.tensor([row[key] + [filler] * (length - len(row[key])) for row in rows])

        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])
        return {
            "input_ids": padded("input_ids", self._pad),
            "labels": padded("labels", IGNORED),
            "attention_mask": mask,
        }


def dataset_of(rows: list[dict[str, list[int]]]) -> Any:
    """Return the rows as the dataset that the Trainer expects."""
    from datasets import Dataset

    return Dataset.from_list([{**row, "length": len(row["input_ids"])} for row in rows])
