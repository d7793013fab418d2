"""Instruction records: one training or test example each, made from a document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product
from typing import Literal

from odin_slm.core.document import Document, Mention, canonical_mentions, crop
from odin_slm.core.errors import RecordTooLongError
from odin_slm.core.folding import fold
from odin_slm.core.record import Record
from odin_slm.core.sentences import pack, sentence_spans
from odin_slm.tasks.extraction import tagged
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, parse, render
from odin_slm.tasks.extraction.grounding import occurrences
from odin_slm.tasks.extraction.schema import MEDICAL, Types


def extraction_of(
    document: Document, relation_mentions: Literal["canonical", "all"] = "canonical", types: Types = MEDICAL
) -> Extraction:
    """Turn a document's annotations into the extraction that a model should write.

    Entities are the distinct (type, surface) pairs in text order, compared as scores compare them. A concept is named
    in relations by its canonical mention, or by each of its surfaces with ``relation_mentions="all"``. Relations whose
    arguments do not fit the type signature, or that relate a surface to itself, cannot be written and are left out;
    so are repeated ones.
    """
    entities: dict[tuple[str, str], Entity] = {}
    for mention in document.mentions:
        entities.setdefault((mention.type, fold(mention.text)), Entity(mention.type, mention.text))

    def name(mention: Mention) -> Entity:
        return entities[mention.type, fold(mention.text)]

    named: dict[str, list[Entity]] = {}
    if relation_mentions == "canonical":
        named = {concept: [name(mention)] for concept, mention in canonical_mentions(document).items()}
    for mention in document.mentions:
        for concept in mention.concepts:
            known, entity = named.setdefault(concept, []), name(mention)
            # A concept that is annotated with several types has a canonical mention of each.
            told = (other.type for other in known) if relation_mentions == "canonical" else ()
            if entity not in known and entity.type not in told:
                known.append(entity)

    order = {entity: position for position, entity in enumerate(entities.values())}
    triples: dict[tuple[int, int, int], RelationTriple] = {}
    for relation in document.relations:
        pairs = product(named.get(relation.head, ()), named.get(relation.tail, ()))
        legal = (pair for pair in pairs if (pair[0].type, pair[1].type) in types.legal[relation.type])
        apart = ((head, tail) for head, tail in legal if fold(head.text) != fold(tail.text))
        for head, tail in islice(apart, 1 if relation_mentions == "canonical" else None):
            key = (order[head], order[tail], types.relations.index(relation.type))
            triples[key] = RelationTriple(head.text, relation.type, tail.text)
    return Extraction(tuple(entities.values()), tuple(triples[key] for key in sorted(triples)))


def make_record(
    document: Document,
    *,
    instruction: str,
    relation_mentions: Literal["canonical", "all"] = "canonical",
    types: Types = MEDICAL,
) -> Record:
    """Turn a document into its instruction record."""
    return Record(
        instruction=instruction,
        input=document.text,
        output=render(extraction_of(document, relation_mentions, types)),
        id=document.id,
        source=document.source,
        document_id=document.id,
    )


def written(text: str, extraction: Extraction, form: str, types: Types = MEDICAL) -> str:
    """Return an extraction as a model writes it in one of :data:`.tagged.FORMS`.

    Forms with places hold every occurrence of an entity's name (:func:`.grounding.occurrences`), annotated or not, as
    a list does not say which are. An entity that only stands within a longer one, or within a word, cannot be written,
    and neither can its relations.
    """
    if form == "list":
        return render(extraction)
    found = [(*span, entity.type) for entity in extraction.entities for span in occurrences(text, entity.text)]
    section = (tagged.inline if form == "inline" else tagged.numbered)(text, tagged.apart(found, text))
    listed: dict[str, list[Entity]] = {}
    for entity in parse(section, types).extraction.entities:
        listed.setdefault(fold(entity.text), []).append(entity)
    pairs = ((listed.get(fold(r.head), []), r.type, listed.get(fold(r.tail), [])) for r in extraction.relations)
    relations = tuple(
        RelationTriple(heads[0].text, kind, tails[0].text)
        for heads, kind, tails in pairs
        if any((head.type, tail.type) in types.legal[kind] for head in heads for tail in tails)
    )
    return section + render(Extraction(relations=relations)).removeprefix(render(Extraction()).partition("\n\n")[0])


def window(document: Document, fits: Callable[[Document], bool], *, characters: int = 0) -> Iterator[Document]:
    """Cut a document at sentence ends into windows that fit.

    Sentences are taken greedily from the left. A mention that crosses a sentence end keeps both sentences together.

    Args:
        document: The document to cut.
        fits: Whether a window's record fits into the token budget; more sentences never fit where fewer do not.
        characters: A guess of how long a window may be, from which the search for its end starts.

    Yields:
        Windows in text order, with ``#w<n>`` appended to the document's id.

    Raises:
        RecordTooLongError: A single sentence does not fit.
    """
    units = _unbroken(sentence_spans(document.text), document.mentions)

    def longest(first: int) -> int:
        begin, end = units[first]
        guess = sum(end - begin <= characters for _, end in units[first:])
        found = _longest(units[first:], lambda end: fits(crop(document, begin, end, "")), guess)
        if not found:
            raise RecordTooLongError(
                f"the sentence at characters {begin}-{end} alone exceeds the token budget.",
                where=f"document {document.id}",
                fix="Raise ingestion.max_tokens, or set ingestion.overflow=drop.",
            )
        return found

    for number, (begin, end) in enumerate(pack(units, longest)):
        yield crop(document, begin, end, f"#w{number}")


def _longest(units: Sequence[tuple[int, int]], fits: Callable[[int], bool], guess: int) -> int:
    """Return how many of the units fit together: a walk from a good guess asks twice, one from the left many times."""
    count = min(max(guess, 1), len(units))
    if not fits(units[count - 1][1]):
        while count > 1 and not fits(units[count - 2][1]):
            count -= 1
        return count - 1
    while count < len(units) and fits(units[count][1]):
        count += 1
    return count


def _unbroken(spans: list[tuple[int, int]], mentions: Iterable[Mention]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    crossing = [(m.begin, m.end) for m in mentions]
    for begin, end in spans:
        if merged and any(b < merged[-1][1] and e > begin for b, e in crossing):
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return merged
