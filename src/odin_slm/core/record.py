"""Instruction records: one training or test example each, and the Alpaca prompt that asks for its output."""

from __future__ import annotations

from typing import Any, TypedDict

SPLITS = ("train", "validation", "test")
"""Names of the splits inside the code; files are called ``train``, ``val`` and ``test``."""

_INPUT = "\n\n### Input:\n"


class Record(TypedDict):
    """One instruction example: what the model reads, what it must write, and where it comes from."""

    instruction: str
    input: str
    output: str
    id: str
    source: str
    document_id: str


def render_prompt(instruction: str, text: str) -> str:
    """Return the Alpaca prompt of one example; the output text follows it directly, then EOS."""
    return f"### Instruction:\n{instruction}{_INPUT}{text}\n\n### Output:\n"


def before_input(prompt: str) -> str:
    """Return the part of a prompt that is equal for all texts of one schema; nothing if it is no Alpaca prompt."""
    head, found, _ = prompt.partition(_INPUT)
    return head + found if found else ""


def full_text(record: Record | dict[str, Any]) -> tuple[str, str]:
    """Return (prompt, completion) of a record."""
    return render_prompt(record["instruction"], record["input"]), record["output"]
