"""What a corpus parser returns, and the small steps that all parsers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from odin_slm.core.document import Document, surface_concept
from odin_slm.core.errors import CorpusFormatError, MissingInputError
from odin_slm.core.hashing import sha256_text
from odin_slm.core.record import SPLITS
from odin_slm.corpora.faults import Faults
from odin_slm.tasks.base import Task
from odin_slm.tasks.extraction.schema import Schema


@dataclass(frozen=True)
class ParsedCorpus:
    """A corpus as plain values.

    Attributes:
        documents: Documents in file order, one per PMID (ADE: one per sentence).
        report: JSON-ready counts: documents, splits, mentions, relations, dropped things by reason, duplicates, and
            the sha256 of every input text under ``inputs``.
    """

    documents: list[Document]
    report: dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """What a parser module offers under the name ``CORPUS``; that makes it a corpus of the project.

    Attributes:
        name: Name of the corpus: prefix of its datasets, ``source`` of its documents.
        schema: Types that it annotates; None for one without annotations.
        parse: Function of the texts of its files (name -> text). Its further arguments, which need annotations and
            defaults, are the options under ``ingestion.options.<name>``; one called ``seed`` gets the run's seed.
    """

    name: str
    schema: Schema | None
    parse: Callable[..., ParsedCorpus]


def require_files(files: Mapping[str, str], names: tuple[str, ...], corpus: str) -> None:
    """Check that every file of a corpus was given.

    Raises:
        MissingInputError: Naming the files that are missing and those that are there.
    """
    missing = [name for name in names if name not in files]
    if missing:
        raise MissingInputError(
            f"missing {', '.join(missing)}; found {', '.join(sorted(files)) or 'nothing'}.",
            where=f"corpus {corpus}",
            fix="Put the corpus' files under their original names into its folder.",
        )


def require_sound(corpus: str, documents: list[Document], task: Task) -> None:
    """Check that documents are what :class:`~odin_slm.core.document.Document` promises, and of use to the task.

    What breaks it would otherwise be placed by chance (an unknown split) or left out of the records (a relation
    without its mentions) without a word.

    Raises:
        CorpusFormatError: Naming the first document that does not, and what is wrong with it.
    """
    for document in documents:
        if fault := _fault(corpus, document) or task.document_fault(document):
            raise CorpusFormatError(
                f"{fault}.", where=f"corpus {corpus}, document {document.id}", fix="Mend the corpus' parser."
            )


def _fault(corpus: str, document: Document) -> str:
    if document.source != corpus:
        return f"its source is {document.source!r}; expected {corpus!r}"
    if not isinstance(document.pmid, str) or not document.pmid:
        return f"its pmid is {document.pmid!r}; expected a text, the same for all documents of one abstract"
    if document.split not in (None, *SPLITS):
        return f"its split is {document.split!r}; expected {', '.join(SPLITS)} or None"
    if [m.begin for m in document.mentions] != sorted(m.begin for m in document.mentions):
        return "its mentions are out of order; expected them in text order"
    concepts = {concept for m in document.mentions for concept in m.concepts}
    for m in document.mentions:
        found = document.text[m.begin : m.end]
        if not 0 <= m.begin < m.end or found != m.text:
            return f"characters {m.begin}-{m.end} are {found[:60]!r}; expected the mention {m.text[:60]!r}"
    for r in document.relations:
        for concept in (r.head, r.tail):
            if concept not in concepts:
                return f"{r.type} relates the concept {concept[:60]!r}, which no mention has"
    return ""


def numbered_lines(name: str, text: str, faults: Faults | None = None) -> Iterator[tuple[int, str]]:
    r"""Yield (line number from 1, line) without line ends; ``\n`` and ``\r\n`` end a line, nothing else does.

    Raises:
        CorpusFormatError: The text holds a lone surrogate, so it was not decoded from UTF-8; ``faults`` takes it, where
            they are given, and reading goes on.
    """
    faults_here = faults or Faults()
    sound = _is_unicode(text)  # nearly always: then no line is looked at
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not sound:
            with faults_here.collected():
                require_unicode(line, f"{name}:{number}")
            if faults is None:
                faults_here.stop()
        yield number, line.removesuffix("\r")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def require_unicode(text: str, where: str) -> None:
    """Check that a text can be written as UTF-8.

    Raises:
        CorpusFormatError: It holds a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusFormatError(
            f"found {text[error.start : error.start + 1]!r}, which is no character; expected UTF-8 text.",
            where=where,
            fix="Put the character there that is meant.",
        ) from None


def is_number(text: str) -> bool:
    """Tell whether a field is a PubMed id or an offset: one to nine ASCII digits."""
    return 0 < len(text) <= 9 and text.isascii() and text.isdigit()


def known_type(what: str, found: str, known: Collection[str], where: str) -> str:
    """Return a type of entity or relation as it is.

    Raises:
        CorpusFormatError: It is none that the corpus has.
    """
    if found not in known:
        expected = " or ".join(known) if len(known) < 3 else f"one of {', '.join(known)}"
        raise CorpusFormatError(
            f"found {what} type {found[:40]!r}; expected {expected}.",
            where=where,
            fix="Give it a type that the corpus has, or take it out; types of your own need a corpus of your own.",
        )
    return found


def concepts_of(identifiers: list[str], surface: str) -> tuple[str, ...]:
    """Return a mention's concepts: its ids, each once, or its surface where it has none (``-1``, ``-``, empty)."""
    known = [identifier.strip() for identifier in identifiers]
    concepts = tuple(dict.fromkeys(identifier for identifier in known if identifier not in ("", "-", "-1")))
    return concepts or (surface_concept(surface),)


def corpus_report(
    corpus: str,
    documents: list[Document],
    *,
    dropped: Mapping[str, int],
    duplicates: Mapping[str, int],
    inputs: Mapping[str, str],
    schema: Schema | None = None,
    normalised: int = 0,
) -> dict[str, Any]:
    """Return the counts of every parse report; those of a schema's types in its order, also where they are 0.

    Args:
        corpus: The corpus.
        documents: What was read of it.
        dropped: What was left out, by reason.
        duplicates: What was there twice, by where.
        inputs: File name -> text.
        schema: What the corpus annotates.
        normalised: Mentions that a file spells otherwise than its text; they were taken as the text has them.
    """
    mentions = Counter(mention.type for document in documents for mention in document.mentions)
    relations = Counter(relation.type for document in documents for relation in document.relations)
    splits = Counter(document.split for document in documents if document.split)
    return {
        "corpus": corpus,
        "documents": len(documents),
        "splits": {split: splits[split] for split in SPLITS if splits[split]},
        "mentions": {kind: mentions[kind] for kind in (schema.entities if schema else sorted(mentions))},
        "relations": {kind: relations[kind] for kind in (schema.relations if schema else sorted(relations))},
        "composite_mentions": sum(len(m.concepts) > 1 for d in documents for m in d.mentions),
        "overlapping_mentions": sum(_overlapping(d) for d in documents),
        "normalised_mentions": normalised,
        "dropped": dict(sorted(dropped.items())),
        "duplicates": dict(sorted(duplicates.items())),
        "inputs": {name: sha256_text(text) for name, text in sorted(inputs.items())},
    }


def _overlapping(document: Document) -> int:
    """Count the mentions that begin before an earlier one has ended."""
    count, reached = 0, 0
    for mention in sorted(document.mentions):
        count += mention.begin < reached
        reached = max(reached, mention.end)
    return count
