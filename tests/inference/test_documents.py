"""Test documents read whole, as the service reads them, and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extraction_values import TASK
from odin_slm.core.errors import PredictionsError
from odin_slm.inference.documents import read_documents
from odin_slm.inference.reading import DEFAULTS, DocumentExtraction, Question, Reader, ask
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks.answers import AnswerTask
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render

SENTENCES = [f"Patient {n} took enalapril and aspirin, then had a cough, fever and rash." for n in range(6)]
SIZES: dict[str, Any] = {"max_new_tokens": 40, "window_tokens": 128, "overlap": 1, "batch_size": 4}


def record(name: str, text: str, document: str) -> dict[str, Any]:
    said = {"output": render(Extraction((Entity("Drug", "enalapril"),))), "instruction": TASK.instruction("ade")}
    return {"id": name, "input": text, "source": "ade", "document_id": document, **said}


RECORDS = [
    record("ade-1#w10", SENTENCES[2], "ade-1"),
    record("ade-1#w2", " ".join(SENTENCES[:2]), "ade-1"),
    record("ade-2", SENTENCES[3], "ade-2"),
    record("ade-3", " ".join(SENTENCES), "ade-3"),
    record("ade-4", SENTENCES[4], "ade-4"),
]


@pytest.fixture(scope="module")
def predictions(tiny_base: Path) -> list[dict[str, Any]]:
    some = RECORDS[:4]
    questions = [Question(one["input"], one["instruction"], TASK) for one in some]
    names = [one["id"] for one in some]
    base = BaseModel("tiny", tiny_base)
    outputs = ask(base, None, questions, names=names, batch_size=4, max_new_tokens=SIZES["max_new_tokens"])
    return [
        {"id": name, "prediction": out.text, "finished": out.finished, "tokens": out.tokens, "decoding": "constrained"}
        for name, out in zip(names, outputs, strict=True)
    ]


def test_documents_are_read_as_the_service_reads_them_and_no_window_twice(
    tiny_base: Path, predictions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, asked = BaseModel("tiny", tiny_base), list[Question]()

    def counted(model: BaseModel, adapter: None, questions: list[Question], **options: Any) -> Any:
        asked.extend(questions)
        return ask(model, adapter, questions, **options)

    monkeypatch.setattr("odin_slm.inference.documents.ask", counted)
    documents = read_documents(base, None, RECORDS, predictions, TASK, **SIZES)
    assert [(d["id"], d["text"], len(d["gold"])) for d in documents] == [
        ("ade-1", " ".join(SENTENCES[:3]), 2),
        ("ade-2", SENTENCES[3], 1),
        ("ade-3", " ".join(SENTENCES), 1),
    ], "the fourth has no prediction"
    windows = [len(document["windows"]) for document in documents]
    assert windows[0] > 1 < windows[2]
    assert documents[1]["windows"][0]["output"] == predictions[2]["prediction"]
    assert len(asked) == windows[0] + windows[2]

    reader = Reader(base, None, task=TASK, source="ade", constrained=True, **SIZES)
    for document, found in zip(documents, reader.extract([d["text"] for d in documents]), strict=True):
        assert isinstance(found, DocumentExtraction)
        assert [window.to_dict() for window in found.windows] == document["windows"]
    assert TASK.score_documents(documents, resamples=50)["several_windows"]["windows"] == windows[0] + windows[2]


def test_a_task_that_does_not_score_documents_has_none_read(tiny_base: Path) -> None:
    class Plain(AnswerTask):
        name = "plain"

        def instruction(self, source: str) -> str:
            return "Answer."

        def answer(self, document: Any) -> str:
            return ""

    assert read_documents(BaseModel("tiny", tiny_base), None, RECORDS, [], Plain()) == []


def out(*entities: tuple[str, str], relations: tuple[tuple[str, str, str], ...] = ()) -> str:
    return render(Extraction(tuple(Entity(*e) for e in entities), tuple(RelationTriple(*r) for r in relations)))


def document(name: str, text: str, gold: list[str], *outputs: tuple[str, str]) -> dict[str, Any]:
    """A document with its windows, each given by the text that it reads and what was written."""
    windows = [
        {"begin": text.index(part), "end": text.index(part) + len(part), "output": output} for part, output in outputs
    ]
    return {"id": name, "source": "ade", "text": text, "gold": gold, "windows": windows}


def test_windows_are_joined_before_they_are_scored() -> None:
    text = "Zinc caused rash. Rash went as zinc was stopped. Iron caused fever."
    causes = (("Zinc", "causes", "rash"),)
    drug, effect = ("Drug", "Zinc"), ("Symptom", "rash")
    gold = [out(drug, effect, relations=causes), out(("Drug", "Iron"), ("Symptom", "fever"))]
    long = document(
        "a",
        text,
        gold,
        ("Zinc caused rash. Rash went as zinc was stopped.", out(drug, effect, relations=causes)),
        (
            "Rash went as zinc was stopped. Iron caused fever.",
            out(("Drug", "zinc"), ("Symptom", "Rash"), ("Drug", "fever"), relations=(("zinc", "causes", "Rash"),)),
        ),
    )
    short = document("b", "No harm.", [out(("Drug", "harm"))], ("No harm.", out(("Drug", "harm"))))
    found = TASK.score_documents([long, short], resamples=100)
    # zinc and rash, which both windows name, count once; fever is of another type, and iron was not found
    several = found["several_windows"]
    assert {k: several["entity_metrics"]["micro"][k] for k in ("tp", "fp", "fn")} == {"tp": 2, "fp": 1, "fn": 2}
    assert several["relation_metrics"]["micro"]["f1"] == 1.0
    assert (several["documents"], several["windows"], found["documents"], found["windows"]) == (1, 2, 2, 3)
    assert {k: found["entity_metrics"]["micro"][k] for k in ("tp", "fp", "fn")} == {"tp": 3, "fp": 1, "fn": 2}
    low, high = found["intervals"]["entity_f1_micro"]
    assert low <= found["entity_metrics"]["micro"]["f1"] <= high
    assert TASK.score_documents([short], resamples=100)["several_windows"] is None
    with pytest.raises(PredictionsError, match="no prediction to score"):
        TASK.score_documents([])


def test_all_ways_to_ask_begin_with_the_same_sizes() -> None:
    from odin_slm.config.parameters import ExtractionParams
    from odin_slm.serving.settings import ServingSettings

    for settings in (ExtractionParams(), ServingSettings()):
        assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
