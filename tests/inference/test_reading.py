"""Documents of any length in, extractions out, on a tiny model with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from extraction_values import TASK, question
from odin_slm.core.errors import GrammarError, OdinError, RecordTooLongError
from odin_slm.inference import reading as extraction
from odin_slm.inference.decoding import onednn_linear
from odin_slm.inference.reading import DocumentExtraction, Reader
from odin_slm.models import backends
from odin_slm.models.base_model import BaseModel, model_digest
from odin_slm.tasks.extraction.format import parse
from odin_slm.tasks.extraction.grammar import ExtractionGrammar

SENTENCES = [f"Patient {n} took enalapril and aspirin, then had a cough, fever and rash." for n in range(12)]


def extractor(base: Path, **options: Any) -> Reader:
    given = {
        "task": TASK,
        "source": "all",
        "constrained": True,
        "batch_size": 4,
        "max_new_tokens": 48,
        "window_tokens": 128,
    }
    return Reader(BaseModel("tiny", base), None, **{**given, "overlap": 1, **options})


@pytest.fixture(scope="module")
def reader(tiny_base: Path) -> Reader:
    return extractor(tiny_base)


def test_a_long_document_is_read_in_windows_and_every_offset_fits(reader: Reader) -> None:
    text = " ".join(SENTENCES)
    (found,) = reader.extract([text])
    assert isinstance(found, DocumentExtraction)
    assert len(found.windows) > 2
    assert (found.windows[0].begin, found.windows[-1].end) == (0, len(text))
    assert found.reading.entities, "held to the text, even random weights name something"
    for entity in found.reading.entities:
        assert entity.occurrences
        assert all(text[o.begin : o.end] == o.text for o in entity.occurrences)


def test_what_a_document_gives_does_not_depend_on_its_neighbours(reader: Reader) -> None:
    together = reader.extract(SENTENCES[:5])
    assert [reader.extract([text])[0] for text in SENTENCES[:5]] == together


@pytest.mark.parametrize(
    ("precision", "faster", "expected"),
    [
        ("fp32", True, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_products_are_computed_in_the_precision_that_is_asked_for(
    precision: str, faster: bool, expected: torch.dtype, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use(model: Any, dtype: torch.dtype) -> Any:
        seen.append(dtype)
        return original(model, dtype)

    seen: list[torch.dtype] = []
    original = onednn_linear.use_onednn
    monkeypatch.setattr(onednn_linear, "use_onednn", use)
    monkeypatch.setattr(backends, "multiplies_faster_in_bf16", lambda: faster)
    (found,) = extractor(tiny_base, precision=precision).extract(SENTENCES[:1])
    assert isinstance(found, DocumentExtraction)
    assert seen == [expected]


def test_a_fault_costs_one_document(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def lark(self: ExtractionGrammar) -> str:
        return "start: nonsense" if "Patient 1 " in self.text else original(self)

    original = ExtractionGrammar.lark
    monkeypatch.setattr(ExtractionGrammar, "lark", lark)
    seen: list[int] = []
    found = reader.extract([SENTENCES[0], " \n", SENTENCES[1], "half \ud800", SENTENCES[2]], seen.append)
    assert [isinstance(one, DocumentExtraction) for one in found] == [True, False, False, False, True]
    assert "blank" in str(found[1])
    assert isinstance(found[2], GrammarError)
    assert "surrogate" in str(found[3])
    assert seen[-1] == 4


def test_free_decoding_is_offered(tiny_base: Path) -> None:
    (found,) = extractor(tiny_base, constrained=False).extract([SENTENCES[0]])
    assert isinstance(found, DocumentExtraction)
    assert found.reading.malformed > 0, "random weights do not follow the format by themselves"


def test_documents_are_read_at_the_operating_point_of_the_calibrator(tiny_base: Path) -> None:
    texts = [
        SENTENCES[0],
        "Aspirin caused nausea.",
        "Naproxen, codeine and digoxin were given; rash and fever followed.",
    ]

    def read(constrained: bool = True, **point: Any) -> list[DocumentExtraction]:
        calibrator = {kind: {"method": "temperature", "temperature": 9.0} for kind in ("entity", "relation")}
        calibrator |= {"operating_point": {"version": 1, **point}} if point else {}
        options = {"calibrator": calibrator, "max_new_tokens": 120, "constrained": constrained}
        found = extractor(tiny_base, **options).extract(texts)
        assert all(isinstance(one, DocumentExtraction) for one in found)
        return found

    plain = read()
    least = max(entity.confidence or 0.0 for one in plain for entity in one.reading.entities) - 1e-4
    sure = read(threshold={"entity": least, "relation": 0.0})
    for one, all_of_it in zip(sure, plain, strict=True):
        kept = [entity for entity in all_of_it.reading.entities if entity.confidence >= least]
        assert [(e.type, e.text) for e in one.reading.entities] == [(e.type, e.text) for e in kept]
        names = {entity.text for entity in kept}
        assert all({relation.head.text, relation.tail.text} <= names for relation in one.reading.relations)
        assert parse(one.windows[0].output).well_formed, "windows hold what is kept"
    assert sum(len(one.reading.entities) for one in sure) < sum(len(one.reading.entities) for one in plain)
    ended = read(end_bias={"entity": 50.0, "relation": 50.0})
    assert {one.windows[0].output for one in ended} == {"### Entities:\nNone\n\n### Relations:\nNone"}
    point = {"end_bias": {"entity": 50.0, "relation": 50.0}, "threshold": {"entity": 1.0, "relation": 1.0}}
    assert read(constrained=False, **point) == read(constrained=False)


def test_a_context_without_room_is_refused(tiny_base: Path) -> None:
    with pytest.raises(RecordTooLongError, match="no room"):
        extractor(tiny_base, max_new_tokens=1000)


def test_every_schema_that_can_be_asked_for_has_a_prompt() -> None:
    prompts = {question("x", name).prompt for name in TASK.sources}
    assert all(prompt.startswith("### Instruction:\nExtract entities: Drug") for prompt in prompts)
    assert TASK.describe_source("ade") == {"entities": ["Drug", "Symptom"], "relations": ["causes"]}


def test_the_digest_is_of_the_content(tiny_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_base, copy)
    first = model_digest(BaseModel("a", tiny_base))
    assert first == model_digest(BaseModel("b", copy))
    (copy / "README.md").write_text("another card")
    assert first == model_digest(BaseModel("b", copy)), "the card decides nothing"
    config = copy / "config.json"
    config.write_text(config.read_text() + " ")
    assert first != model_digest(BaseModel("b", copy))
    assert model_digest(BaseModel("owner/name", None, "v1")) != model_digest(BaseModel("owner/name", None, "v2"))
    with pytest.raises(OdinError):
        extraction.check_text("\t")
