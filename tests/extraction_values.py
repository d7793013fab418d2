"""The shipped extraction task, and records of it as ingestion makes them."""

from __future__ import annotations

from typing import Any

from odin_slm.core.document import Document
from odin_slm.core.record import Record
from odin_slm.tasks.extraction.task import ExtractionTask

TASK = ExtractionTask()


def make_record(document: Document, **options: Any) -> Record:
    """Return the record of a document, asked for what its corpus annotates."""
    (record,) = TASK.records(document, TASK.instruction(document.source), **options)
    return record
