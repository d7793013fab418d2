"""Nodes of the ingestion pipeline."""

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from odin_slm import corpora
from odin_slm.config.parameters import IngestionParams, TaskParams, options_of
from odin_slm.core.document import Document
from odin_slm.core.errors import RecordTooLongError, WrongParameterError
from odin_slm.core.processes import mapped
from odin_slm.core.record import Record
from odin_slm.core.rows import stored
from odin_slm.corpora import own
from odin_slm.corpora.parsed import require_sound
from odin_slm.corpora.pubtator import IN_PIECES, NO_CHARACTERS, NO_PLACE
from odin_slm.corpora.synthetic.generator import synthetic_corpus
from odin_slm.datasets.corpus_files import RawCorpus
from odin_slm.datasets.own_corpora import RawOwnCorpus
from odin_slm.models.base_model import BaseModel
from odin_slm.models.tokens import RecordCounter, record_counter, remember
from odin_slm.review.returned import provenance, take_back
from odin_slm.tasks import Task

_log = logging.getLogger(__name__)


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

    Raises:
        WrongParameterError: One instruction is shared by all sources, and the task needs theirs.
    """
    if params.instruction == "shared" and task.task().needs_own_instructions:
        raise WrongParameterError(
            "one instruction for all sources does not tell in which form an answer is to be written.",
            where="ingestion.instruction",
            fix="Set it to per_schema, or task.options.form to a single form.",
        )
    if not documents:
        return [], {"records": 0}
    lengths = array("i")
    windowed: list[str] = []
    dropped: list[str] = []
    relations_lost = 0

    def fitting() -> Iterator[Record]:
        nonlocal relations_lost
        work = partial(_fitter, base_model, task.task(), params)
        for some, known in mapped(work, documents, len(documents)):
            remember(known)
            for one in some:
                lengths.extend(one.lengths)
                windowed.extend(one.windowed)
                dropped.extend(one.dropped)
                relations_lost += one.relations_lost
                yield from one.records

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


class _Fitted(NamedTuple):
    """The records of a document, their lengths in tokens, and its id where it was windowed or dropped."""

    records: list[Record]
    lengths: list[int]
    windowed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    relations_lost: int = 0


def _fitter(
    base_model: BaseModel, task: Task, params: IngestionParams
) -> Callable[[list[dict[str, Any]]], tuple[list[_Fitted], dict[bytes, int]]]:
    """Return a function from documents to their records that fit, and the lengths that it has counted for them."""
    known: dict[bytes, int] = {}
    lengths_of = record_counter(base_model, known)
    make = partial(_records, task, params)

    def fitted(document: Document, made: list[Record], long: list[int]) -> _Fitted:
        if max(long, default=0) <= params.max_tokens:
            return _Fitted(made, long)
        pieces = _windows(document, task, params, lengths_of, max(long)) if params.overflow == "window" else []
        if not pieces:
            return _Fitted([], [], dropped=(document.id,))
        lost = set(document.relations) - {relation for piece in pieces for relation in piece.relations}
        cut = [record | {"document_id": document.id} for piece in pieces for record in make(piece)]
        return _Fitted(cut, lengths_of(list(map(task.taught, cut))), windowed=(document.id,), relations_lost=len(lost))

    def work(some: list[dict[str, Any]]) -> tuple[list[_Fitted], dict[bytes, int]]:
        documents = [Document.from_dict(values) for values in some]
        whole = [make(document) for document in documents]
        counted = iter(lengths_of([task.taught(record) for made in whole for record in made]))
        found = [
            fitted(document, made, [next(counted) for _ in made])
            for document, made in zip(documents, whole, strict=True)
        ]
        counts = dict(known)
        known.clear()
        return found, counts

    return work


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
        return max(lengths_of(list(map(task.taught, _records(task, params, piece)))), default=0) <= params.max_tokens

    try:
        return list(task.windows(document, fits, characters=len(document.text) * params.max_tokens // length))
    except RecordTooLongError:  # one sentence alone is too long: there is nowhere to cut
        return []
