"""Nodes of the ingestion pipeline."""

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from odin_slm import corpora
from odin_slm.config.parameters import IngestionParams, TaskParams, options_of
from odin_slm.core.document import Document
from odin_slm.core.errors import RecordTooLongError
from odin_slm.core.record import Record
from odin_slm.core.rows import stored
from odin_slm.corpora import own
from odin_slm.corpora.parsed import require_sound
from odin_slm.corpora.pubtator import IN_PIECES, NO_CHARACTERS, NO_PLACE
from odin_slm.corpora.synthetic.generator import synthetic_corpus
from odin_slm.datasets.corpus_files import RawCorpus
from odin_slm.datasets.own_corpora import RawOwnCorpus
from odin_slm.models.base_model import BaseModel
from odin_slm.models.tokens import RecordCounter, record_counter
from odin_slm.review.returned import provenance, take_back
from odin_slm.tasks import Task

_log = logging.getLogger(__name__)
_AT_ONCE = 1024


def parse_corpus(
    raw: RawCorpus, task: TaskParams, params: IngestionParams
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read a corpus in its publisher's format.

    Args:
        raw: File name -> text; it knows which corpus it is.
        task: What the documents are for.
        params: Which corpora are used, and the options of their parsers.

    Returns:
        Documents as JSON values, and the parser's report of what it read, dropped and found twice.

    Raises:
        CorpusFormatError: A file breaks its format, or the parser made a document that is not sound.
    """
    corpus = raw.name
    if corpus not in params.corpora:
        return [], {"corpus": corpus, "documents": 0, "skipped": "not in ingestion.corpora"}
    known = options_of(corpus)
    given = {"seed": params.seed} if "seed" in known.model_fields else {}
    options = known(**{**given, **params.options.get(corpus, {})})
    parsed = corpora.CORPORA[corpus].parse(raw, **dict(options))
    require_sound(corpus, parsed.documents, task.task())
    _warn(parsed.report)
    return [document.to_dict() for document in parsed.documents], parsed.report


def parse_own_corpora(
    raw: dict[str, RawOwnCorpus], task: TaskParams, params: IngestionParams
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read the corpora by configuration.

    Args:
        raw: Corpus -> its files.
        task: What the documents are for.
        params: Which corpora are used, and their blocks.

    Returns:
        Documents as JSON values, and a report: ``documents``, how many, and under ``corpora`` the report of each.

    Raises:
        CorpusFormatError: Files are not what the blocks say; all faults of a corpus, each with its place.
        ReviewError: A document of a review is none that was chosen, or its text was changed.
    """
    documents: list[dict[str, Any]] = []
    reports: dict[str, dict[str, Any]] = {}
    for name, block in params.own_corpora.items():
        if name not in params.corpora:
            continue
        files = raw[name]
        review = files.review()
        parsed = own.parse(name, block, files, files.digests)
        found, report = parsed.documents, parsed.report
        if review is not None:
            found, report = take_back(found, review), {**report, "review": provenance(review)}
        require_sound(name, found, task.task())
        _warn(report)
        documents += [document.to_dict() for document in found]
        reports[name] = report
    return documents, {"corpus": "own", "documents": len(documents), "corpora": reports}


def _warn(report: Mapping[str, Any]) -> None:
    """Say what the annotations of a corpus have lost or changed, which is less than a fault."""
    if count := report.get("normalised_mentions"):
        _log.warning(
            "%s: %d mentions, spelt otherwise in the file, are as the texts have them.", report["corpus"], count
        )
    if report.get("offsets", "characters") != "characters":
        _log.warning("%s: its offsets count %s.", report["corpus"], report["offsets"])
    for reason, count in report.get("dropped", {}).items():
        if count and (reason in (IN_PIECES, NO_PLACE, NO_CHARACTERS) or reason.startswith(own.FAULT)):
            _log.warning("%s: dropped %d of this kind: %s.", report["corpus"], count, reason)


def write_synthetic(
    params: IngestionParams, *parse_reports: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write synthetic documents in proportion to those of the corpora.

    Returns:
        Documents as JSON values, all of the training split, and their report.
    """
    count = round(params.synthetic_ratio * sum(report["documents"] for report in parse_reports))
    parsed = synthetic_corpus(count, params.seed)
    return [document.to_dict() for document in parsed.documents], parsed.report


def write_records(
    documents: Sequence[dict[str, Any]], base_model: BaseModel, task: TaskParams, params: IngestionParams
) -> tuple[Sequence[Record], dict[str, Any]]:
    """Turn documents into instruction records that fit the token budget of the base.

    Returns:
        Records in document order, and a report: lengths in tokens, how many documents were windowed, which were
        dropped (all that overflow, or those with a sentence that alone does), and how many gold relations no window
        holds.
    """
    if not documents:
        return [], {"records": 0}
    lengths_of = record_counter(base_model)
    made_of = task.task()
    make = partial(_records, made_of, params)
    lengths = array("i")
    windowed: list[str] = []
    dropped: list[str] = []
    relations_lost = 0

    def fitting() -> Iterator[Record]:
        nonlocal relations_lost
        for document, made, long in _measured(map(Document.from_dict, documents), make, lengths_of):
            if max(long, default=0) <= params.max_tokens:
                lengths.extend(long)
                yield from made
                continue
            pieces = _windows(document, made_of, params, lengths_of, max(long)) if params.overflow == "window" else []
            (windowed if pieces else dropped).append(document.id)
            if pieces:
                relations_lost += len(set(document.relations) - {r for piece in pieces for r in piece.relations})
                cut = [record for piece in pieces for record in make(piece)]
                lengths.extend(lengths_of(cut))
                yield from cut

    records = stored(fitting())
    return records, {
        "documents": len(documents),
        "records": len(records),
        "max_tokens": params.max_tokens,
        "tokens": _distribution(lengths),
        "documents_windowed": len(windowed),
        "documents_dropped": len(dropped),
        "dropped": dropped,
        "relations_between_windows": relations_lost,
    }


def _measured(
    documents: Iterable[Document], make: Callable[[Document], list[Record]], lengths_of: RecordCounter
) -> Iterator[tuple[Document, list[Record], list[int]]]:
    """Yield every document with its records and their lengths, which are counted many at once."""
    left = iter(documents)
    while some := list(islice(left, _AT_ONCE)):
        whole = [make(document) for document in some]
        counted = iter(lengths_of([record for made in whole for record in made]))
        for document, made in zip(some, whole, strict=True):
            yield document, made, [next(counted) for _ in made]


def _records(task: Task, params: IngestionParams, document: Document) -> list[Record]:
    asked = task.shared_instruction if params.instruction == "shared" else task.instruction(document.source)
    return task.records(document, asked, relation_mentions=params.relation_mentions)


def _distribution(lengths: Iterable[int]) -> dict[str, int]:
    ordered = sorted(lengths) or [0]
    return {
        "median": ordered[len(ordered) // 2],
        "p99": ordered[int(len(ordered) * 0.99)],
        "longest": ordered[-1],
    }


def _windows(
    document: Document, task: Task, params: IngestionParams, lengths_of: RecordCounter, length: int
) -> list[Document]:
    def fits(piece: Document) -> bool:
        return max(lengths_of(_records(task, params, piece)), default=0) <= params.max_tokens

    try:
        return list(task.windows(document, fits, characters=len(document.text) * params.max_tokens // length))
    except RecordTooLongError:  # one sentence alone is too long: there is nowhere to cut
        return []
