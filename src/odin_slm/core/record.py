"""Instruction records: one training or test example each, and the Alpaca prompt that asks for its output."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

SPLITS = ("train", "validation", "test")
"""Names of the splits inside the code; files are called ``train``, ``val`` and ``test``."""

_INSTRUCTION, _INPUT, _OUTPUT = "### Instruction:\n", "\n\n### Input:\n", "\n\n### Output:\n"


class Record(TypedDict):
    """One instruction example: what the model reads, what it must write, and where it comes from."""

    instruction: str
    input: str
    output: str
    id: str
    source: str
    document_id: str
    learned: NotRequired[list[list[int]]]
    """First character and the one after the last of each part of ``output`` that carries loss in training; without
    it, all of it does. Only what :meth:`odin_slm.tasks.base.Task.exercises` makes has it, and no file."""


def render_prompt(instruction: str, text: str) -> str:
    """Return the Alpaca prompt of one example; the output text follows it directly, then EOS."""
    return f"{_INSTRUCTION}{instruction}{_INPUT}{text}{_OUTPUT}"


def before_input(prompt: str) -> str:
    """Return the part of a prompt that is equal for all texts of one schema; nothing if it is no Alpaca prompt."""
    head, found, _ = prompt.partition(_INPUT)
    return head + found if found else ""


def prompt_parts(prompt: str) -> list[tuple[str, bool]]:
    """Return a prompt in parts, each with whether it is of the frame, and not what somebody wrote in it.

    The frame is what surrounds instruction and input; a text that is no Alpaca prompt is one part of it. A prompt may
    end after :func:`before_input`.
    """
    instruction, found, rest = prompt.removeprefix(_INSTRUCTION).partition(_INPUT)
    if not prompt.startswith(_INSTRUCTION) or not found:
        return [(prompt, True)]
    text = rest.removesuffix(_OUTPUT)
    return [(_INSTRUCTION, True), (instruction, False), (_INPUT, True), (text, False), (rest[len(text) :], True)]


def full_text(record: Record | dict[str, Any]) -> tuple[str, str]:
    """Return (prompt, completion) of a record."""
    return render_prompt(record["instruction"], record["input"]), record["output"]
