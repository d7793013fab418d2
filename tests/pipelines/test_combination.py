"""The combination of records: what it refuses before anything is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from odin_slm.config.parameters import CombinationParams, IngestionParams, TaskParams
from odin_slm.core.document import Document
from odin_slm.core.errors import MissingInputError
from odin_slm.models.base_model import BaseModel
from odin_slm.pipelines.combination.nodes import combine_records, place_documents
from odin_slm.pipelines.ingestion.nodes import write_records


def test_a_run_without_a_record_says_so() -> None:
    with pytest.raises(MissingInputError, match=r"no record was made of the corpora\. .*records_report"):
        combine_records([], {}, CombinationParams())
    with pytest.raises(MissingInputError, match=r"documents\.jsonl: there is no such file\. Run the pipelines before"):
        place_documents(None, CombinationParams(), IngestionParams())


def test_a_run_without_a_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        IngestionParams(corpora=())


def test_one_corpus_needs_no_brackets() -> None:
    assert IngestionParams.model_validate({"corpora": "ade"}).corpora == ("ade",)
    assert IngestionParams.model_validate({"corpora": "auto"}).corpora == ("ade", "bc5cdr", "biored")


def test_a_documents_records_find_it_whatever_its_id_ends_in(tiny_base: Path) -> None:
    sentence = "The patient took enalapril for a while and then had a cough. "
    documents = [
        Document(f"ade-a.jsonl#w{number}", sentence * times, "ade", f"{number}", None).to_dict()
        for number, times in ((1, 1), (2, 40))
    ]
    params = IngestionParams(max_tokens=256)
    records, report = write_records(documents, BaseModel("tiny", tiny_base), TaskParams(), params)
    assert (report["documents_windowed"], report["documents_dropped"]) == (1, 0)
    assert len(records) > 2
    splits = {document["id"]: {"split": "train"} for document in documents}
    placed = combine_records(records, splits, CombinationParams())["train"]
    assert {record["document_id"] for record in placed} == set(splits)
