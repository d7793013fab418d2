"""Documents: one text with its typed mentions and relations, as plain immutable values.

Relations hold between concepts, not between mentions, because that is what two of the three corpora annotate. A
mention without a concept of its own (all of ADE, id ``-1`` elsewhere) gets its folded surface as concept, so
that one rule serves every corpus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from odin_slm.core.folding import fold

SYNTHETIC_PMIDS = range(990_000_000, 1_000_000_000)
"""Document ids of the project's own generator: nine digits, a range that PubMed has not reached."""
GENERATED_SOURCES = frozenset({"ade", "bc5cdr", "biored", "synthetic"})
"""Sources that the generator writes documents of; others number theirs as they like."""


@dataclass(frozen=True, slots=True, order=True)
class Mention:
    """A typed span of a document.

    Attributes:
        begin: Offset of the first character, 0-based, in the document's text.
        end: Offset after the last character.
        text: ``document.text[begin:end]``.
        type: One of the experiment's entity types.
        concepts: Concept ids, at least one; several for a composite mention.
    """

    begin: int
    end: int
    text: str
    type: str
    concepts: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Relation:
    """A typed, directed relation between two concepts of one document."""

    type: str
    head: str
    tail: str


@dataclass(frozen=True, slots=True)
class GivenDocument:
    """A document that somebody wants read.

    Attributes:
        id: Its own id, or file and record number.
        source: File that it comes from, relative to the folder that was named.
        record: Number of the record in that file, from 1.
        text: The text; empty where it could not be read.
        error: Why it could not be read, or None.
    """

    id: str
    source: str
    record: int
    text: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One annotated text.

    Attributes:
        id: Unique over all corpora, for example ``bc5cdr-439781``.
        text: The text that the offsets refer to.
        source: Name of the corpus.
        pmid: PubMed id of the abstract the text comes from; synthetic documents have an id of their own here.
        split: Official split of the corpus (``train``, ``validation``, ``test``), or None where it has none.
        mentions: Mentions in text order.
        relations: Relations between concepts of ``mentions``.
    """

    id: str
    text: str
    source: str
    pmid: str
    split: str | None = None
    mentions: tuple[Mention, ...] = ()
    relations: tuple[Relation, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the document as JSON-ready values."""
        return {
            "id": self.id,
            "source": self.source,
            "pmid": self.pmid,
            "split": self.split,
            "text": self.text,
            "mentions": [
                {"begin": m.begin, "end": m.end, "text": m.text, "type": m.type, "concepts": list(m.concepts)}
                for m in self.mentions
            ],
            "relations": [{"type": r.type, "head": r.head, "tail": r.tail} for r in self.relations],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Document:
        """Rebuild a document from :meth:`to_dict`."""
        mentions = tuple(
            Mention(m["begin"], m["end"], m["text"], m["type"], tuple(m["concepts"])) for m in values["mentions"]
        )
        relations = tuple(Relation(r["type"], r["head"], r["tail"]) for r in values["relations"])
        return cls(
            id=values["id"],
            text=values["text"],
            source=values["source"],
            pmid=values["pmid"],
            split=values["split"],
            mentions=mentions,
            relations=relations,
        )


def surface_concept(text: str) -> str:
    """Return the concept id of a mention that has none of its own: its folded surface."""
    return f"text:{fold(text)}"


def canonical_mentions(document: Document) -> dict[str, Mention]:
    """Choose the mention that names each concept in relations: ``relation_mentions: canonical``.

    The first mention in text order that stands for this concept alone; where a concept occurs only inside composite
    mentions, the first of those.

    Returns:
        Concept id -> mention, for every concept that the document mentions.
    """
    chosen: dict[str, Mention] = {}
    for mention in document.mentions:
        for concept in mention.concepts:
            known = chosen.get(concept)
            if known is None or (len(known.concepts) > 1 and len(mention.concepts) == 1):
                chosen[concept] = mention
    return chosen


def surface_forms(document: Document) -> dict[str, list[str]]:
    """Return, for every concept with several surfaces, its canonical name -> the other ones, in text order.

    Surfaces are told apart as scores compare them. The only name of a concept that is also another one's other name (a
    composite mention) is there with an empty list: it stands for itself, too.
    """
    forms: dict[str, dict[str, str]] = {}
    names = {concept: mention.text for concept, mention in canonical_mentions(document).items()}
    for mention in document.mentions:
        for concept in mention.concepts:
            name = names[concept]
            if fold(mention.text) != fold(name):
                forms.setdefault(name, {}).setdefault(fold(mention.text), mention.text)
    also = {other for others in forms.values() for other in others}
    for name in names.values():
        if fold(name) in also:
            forms.setdefault(name, {})
    return {name: list(others.values()) for name, others in forms.items()}


def crop(document: Document, begin: int, end: int, suffix: str) -> Document:
    """Cut ``text[begin:end]`` out as a document of its own.

    Mentions that lie wholly inside are kept with shifted offsets, and so are relations whose two concepts are both
    still mentioned.

    Args:
        document: The document to cut.
        begin: First character of the window.
        end: Offset after its last character.
        suffix: Appended to the document's id.
    """
    mentions = tuple(
        replace(m, begin=m.begin - begin, end=m.end - begin)
        for m in document.mentions
        if begin <= m.begin and m.end <= end
    )
    alive = {concept for mention in mentions for concept in mention.concepts}
    relations = tuple(r for r in document.relations if r.head in alive and r.tail in alive)
    return replace(
        document, id=document.id + suffix, text=document.text[begin:end], mentions=mentions, relations=relations
    )


def is_synthetic(pmid: str) -> bool:
    """Tell whether a document was written by the project's own generator."""
    return pmid.isascii() and pmid.isdigit() and int(pmid) in SYNTHETIC_PMIDS
