"""The combination of records: what it refuses before anything is made of it."""

from __future__ import annotations

import pytest

from odin_slm.config.parameters import CombinationParams, IngestionParams
from odin_slm.core.errors import MissingInputError
from odin_slm.pipelines.combination.nodes import combine_records, place_documents


def test_a_run_without_a_record_says_so() -> None:
    with pytest.raises(MissingInputError, match=r"no record was made of the corpora\. .*records_report"):
        combine_records([], {}, CombinationParams())
    with pytest.raises(MissingInputError, match=r"documents\.jsonl: there is no such file\. Run the pipelines before"):
        place_documents(None, CombinationParams(), IngestionParams())


def test_a_run_without_a_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        IngestionParams(corpora=())
