"""The shipped extraction task, and records of it as ingestion makes them."""

from __future__ import annotations

from typing import Any

from odin_slm.core.document import Document
from odin_slm.core.record import Record
from odin_slm.inference.reading import Question
from odin_slm.tasks.extraction.grammar import ExtractionGrammar
from odin_slm.tasks.extraction.task import ExtractionTask

TASK = ExtractionTask()


def make_record(document: Document, **options: Any) -> Record:
    """Return the record of a document, asked for what its corpus annotates."""
    (record,) = TASK.records(document, TASK.instruction(document.source), **options)
    return record


def grammar(instruction: str, text: str) -> ExtractionGrammar:
    """Return the grammar that holds an output to its text."""
    return TASK.grammar(instruction, text)


def question(text: str, source: str = "biored", *, constrained: bool = True) -> Question:
    """Ask for what a source annotates."""
    return Question(text, TASK.instruction(source), TASK if constrained else None)
