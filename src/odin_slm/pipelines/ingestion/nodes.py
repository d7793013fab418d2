"""Nodes of the ingestion pipeline."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from odin_slm.corpora import PARSERS
from odin_slm.document import Document
from odin_slm.engines.base_model import BaseModel
from odin_slm.engines.tokens import token_counter
from odin_slm.errors import RecordTooLongError
from odin_slm.parameters import IngestionParams
from odin_slm.record import Record, full_text, make_record, window


def parser_of(corpus: str) -> Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Return the parsing node of one corpus, named after it."""

    def parse_corpus(raw: Mapping[str, str], params: IngestionParams) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Read a corpus in its publisher's format.

        Args:
            raw: File name -> text.
            params: Which corpora are used, and the share of ADE sentences without an event.

        Returns:
            Documents as JSON values, and the parser's report of what it read, dropped and found twice.
        """
        if corpus not in params.corpora:
            return [], {"skipped": "not in ingestion.corpora"}
        options = {"negative_ratio": params.ade_negative_ratio, "seed": params.seed} if corpus == "ade" else {}
        parsed = PARSERS[corpus](raw, **options)
        return [document.to_dict() for document in parsed.documents], parsed.report

    parse_corpus.__name__ = f"parse_{corpus}"
    return parse_corpus


def write_records(
    documents: list[dict[str, Any]], base_model: BaseModel, params: IngestionParams
) -> tuple[list[Record], dict[str, Any]]:
    """Turn documents into instruction records that fit the token budget of the base.

    Args:
        documents: Documents as JSON values.
        base_model: The base whose tokenizer counts.
        params: Instruction, naming of relations, budget and what happens beyond it.

    Returns:
        Records in document order, and a report: lengths in tokens, how many documents were windowed, which were
        dropped (all that overflow, or those with a sentence that alone does), and how many gold relations no window
        holds.
    """
    if not documents:
        return [], {"records": 0}
    count = token_counter(base_model)
    records: list[Record] = []
    windowed, dropped, relations_lost = [], [], 0
    for values in documents:
        document = Document.from_dict(values)
        if _fits(document, params, count):
            records.append(_record(document, params))
            continue
        try:
            pieces = list(_windows(document, params, count)) if params.overflow == "window" else []
        except RecordTooLongError:  # one sentence alone is too long: there is nowhere to cut
            pieces = []
        if not pieces:
            dropped.append(document.id)
            continue
        windowed.append(document.id)
        relations_lost += len(set(document.relations) - {r for piece in pieces for r in piece.relations})
        records.extend(_record(piece, params) for piece in pieces)
    lengths = sorted(sum(count(list(full_text(record)))) for record in records)
    return records, {
        "documents": len(documents),
        "records": len(records),
        "max_tokens": params.max_tokens,
        "tokens": {
            "median": lengths[len(lengths) // 2] if lengths else 0,
            "p99": lengths[int(len(lengths) * 0.99)] if lengths else 0,
            "longest": lengths[-1] if lengths else 0,
        },
        "documents_windowed": len(windowed),
        "documents_dropped": len(dropped),
        "dropped": dropped,
        "relations_between_windows": relations_lost,
    }


def _record(document: Document, params: IngestionParams) -> Record:
    return make_record(document, instruction=params.instruction, relation_mentions=params.relation_mentions)


def _fits(document: Document, params: IngestionParams, count: Callable[[list[str]], list[int]]) -> bool:
    # + 1 for the end-of-sequence token
    return sum(count(list(full_text(_record(document, params))))) + 1 <= params.max_tokens


def _windows(
    document: Document, params: IngestionParams, count: Callable[[list[str]], list[int]]
) -> Iterator[Document]:
    return window(document, lambda piece: _fits(piece, params, count))
