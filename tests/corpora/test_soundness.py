"""A parser that makes unsound documents is refused by name, before anything is placed or left out silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from odin_slm import corpora
from odin_slm.config.parameters import CombinationParams, IngestionParams, TaskParams
from odin_slm.core.document import Document, Mention, Relation
from odin_slm.core.errors import CorpusFormatError
from odin_slm.corpora.parsed import Corpus, ParsedCorpus
from odin_slm.datasets.corpus_files import RawCorpus
from odin_slm.pipelines.combination.nodes import place_documents
from odin_slm.pipelines.ingestion.nodes import parse_corpus
from odin_slm.tasks.extraction.schema import SCHEMAS

SOUND = Document(
    "bc5cdr-1",
    "Xol caused rash.",
    "bc5cdr",
    "1",
    "train",
    (Mention(0, 3, "Xol", "Drug", ("D1",)), Mention(11, 15, "rash", "Disease", ("D2",))),
    (Relation("causes", "D1", "D2"),),
)
DRUG, RASH = SOUND.mentions


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Document], int]:
    def parse_one(document: Document) -> int:
        def parse(files: Mapping[str, str]) -> ParsedCorpus:
            return ParsedCorpus([document], {})

        known = {**corpora.CORPORA, "bc5cdr": Corpus("bc5cdr", SCHEMAS["bc5cdr"], parse)}
        monkeypatch.setattr(corpora, "CORPORA", known)
        return len(parse_corpus(RawCorpus("bc5cdr", dict), TaskParams(), IngestionParams())[0])

    return parse_one


def test_a_sound_document_passes(parsed: Callable[[Document], int]) -> None:
    assert parsed(SOUND) == 1


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (replace(SOUND, source="cdr"), "its source is 'cdr'; expected 'bc5cdr'"),
        (replace(SOUND, pmid=""), "its pmid is ''"),
        (replace(SOUND, split="dev"), "its split is 'dev'; expected train, validation, test or None"),
        (replace(SOUND, mentions=(RASH, DRUG)), "its mentions are out of order"),
        (
            replace(SOUND, mentions=(DRUG, replace(RASH, begin=10))),
            "characters 10-15 are ' rash'; expected the mention 'rash'",
        ),
        (replace(SOUND, mentions=(DRUG, replace(RASH, type="Symptom"))), "the mention 'rash' is a Symptom"),
        (replace(SOUND, relations=(Relation("cures", "D1", "D2"),)), "a relation is 'cures'; expected one of causes"),
        (
            replace(SOUND, relations=(Relation("causes", "D1", "D3"),)),
            "causes relates the concept 'D3', which no mention has",
        ),
        (
            replace(SOUND, relations=(Relation("causes", "D2", "D1"),)),
            "causes relates 'D2' to 'D1', Disease to Drug; expected Drug to Disease or Drug to Symptom",
        ),
    ],
)
def test_a_fault_is_named(parsed: Callable[[Document], int], document: Document, message: str) -> None:
    with pytest.raises(CorpusFormatError) as raised:
        parsed(document)
    assert str(raised.value).startswith(f"corpus bc5cdr, document bc5cdr-1: {message}")


def test_two_documents_of_one_id_are_refused() -> None:
    with pytest.raises(CorpusFormatError, match="corpus ade and bc5cdr: found 2 documents with the id 'bc5cdr-1'"):
        place_documents(
            [SOUND.to_dict(), replace(SOUND, source="ade", pmid="2").to_dict()], CombinationParams(), IngestionParams()
        )
