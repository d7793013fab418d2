"""A task of its own, in the lines that the documentation promises: write the first word of a text."""

from __future__ import annotations

from typing import ClassVar

from odin_slm.core.document import Document
from odin_slm.tasks.answers import AnswerTask


class FirstWordTask(AnswerTask):
    """The first word of a text."""

    name: ClassVar[str] = "first_word"
    title: ClassVar[str] = "naming the first word"
    example: ClassVar[str] = "Cough and rash developed."

    def instruction(self, source: str) -> str:
        """Return the one instruction."""
        return "Write the first word."

    def answer(self, document: Document) -> str:
        """Return the first word."""
        return document.text.split()[0]

    def faults(self, output: str) -> tuple[str, ...]:
        """Return the lines after the first: an answer has one."""
        return tuple(output.split("\n")[1:])
