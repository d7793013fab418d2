"""A review of two invented notes, as the pipeline makes it."""

from __future__ import annotations

from typing import Any

from odin_slm.review.queue import task_of

TEXT = "😀 Aspirin caused a rash.\nThe rash and\nfever ended; aspirin was stopped."
TYPES = {"entities": ["Drug", "Symptom"], "relations": [["causes", "Drug", "Symptom"]]}
META = {"reason": "uncertain", "uncertainty": 0.25, "model": "sha256:0", "made": "2026-01-01T00:00:00+00:00"}


def entity(kind: str, text: str, *begins: int, confidence: float | None = 0.5) -> dict[str, Any]:
    places = [{"begin": begin, "end": begin + len(text), "text": TEXT[begin : begin + len(text)]} for begin in begins]
    return {"type": kind, "text": text, "occurrences": places, "confidence": confidence}


def row() -> dict[str, Any]:
    """What the extraction pipeline writes of the first note; three of its relations cannot be pointed at."""
    aspirin = entity("Drug", "Aspirin", 2, 51, confidence=0.9)
    rash, fever = entity("Symptom", "rash", 19, 29), entity("Symptom", "rash and\nfever", 29, confidence=0.4)
    nowhere = {"text": "cough", "type": None, "occurrences": []}
    untyped = {**rash, "type": None}
    relations = [
        {"type": "causes", "head": aspirin, "tail": rash, "confidence": 0.8},
        {"type": "causes", "head": aspirin, "tail": fever, "confidence": 0.3},
        {"type": "causes", "head": aspirin, "tail": untyped, "confidence": 0.8},
        {"type": "causes", "head": aspirin, "tail": nowhere, "confidence": 0.1},
        {"type": "causes", "head": aspirin, "tail": aspirin | {"type": "Symptom"}, "confidence": 0.1},
    ]
    return {"id": "note-1", "text": TEXT, "entities": [aspirin, rash, fever], "relations": relations}


def tasks() -> list[dict[str, Any]]:
    """The queue: a note with findings, and one without."""
    empty = {"id": "note-2", "text": "Nothing was found.", "entities": [], "relations": []}
    return [task_of(row(), META), task_of(empty, META)]
