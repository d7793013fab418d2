"""The protocols of the literature: what a paper calls right, on the documents that it scores.

The other rules compare names, record by record. Published figures compare places in a text, or pairs of concept ids, of
whole documents. The model writes names, so each protocol says where a name stands or what it means; only corpora are
asked. Documents that the project's own generator wrote are not scored: nobody publishes figures on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy

from odin_slm.core.document import Document, canonical_mentions, is_synthetic, surface_concept
from odin_slm.core.folding import fold
from odin_slm.tasks.extraction.grounding import Argument, Grounded
from odin_slm.tasks.resampling import Figure, Resampling, f1, precision, recall

Item = tuple[Any, ...]
Sides = tuple[set[Item], set[Item]]
"""What was found in a document, and what is gold."""
Names = Mapping[str, tuple[str, ...]]
"""Folded name -> the concepts that it means."""


class ReadDocument(NamedTuple):
    """A document of a corpus, and what a model found in it."""

    gold: Document
    found: Grounded


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a corpus is scored; name, title and rule are for the results and the report.

    Attributes:
        official: Documents of the official test part, which alone is scored; None: there is none, and every document
            with a relation is scored.
        rows: (documents, names of the corpus' training and development part) -> title of a figure -> sides by document.
    """

    name: str
    title: str
    source: str
    official: int | None
    rule: str
    rows: Callable[[Sequence[ReadDocument], Names], dict[str, list[Sides]]]

    def scores(self, document: Document) -> bool:
        """Tell whether a document counts."""
        of_part = document.split == "test" if self.official else bool(document.relations)
        return of_part and document.source == self.source and not is_synthetic(document.pmid)


def score_protocols(
    read: Sequence[ReadDocument], known: Sequence[Document], *, resamples: int = 1000, seed: int = 42
) -> dict[str, Any]:
    """Score documents under every protocol of their corpora.

    Args:
        read: Test documents, whole.
        known: Documents whose names may be used: those of a corpus' official training and development part are.
        resamples: Bootstrap resamples, drawn by ``seed``.
        seed: Equal seeds draw equally.

    Returns:
        Name of a protocol with documents -> ``title``, ``source``, ``rule``, ``documents`` (how many),
        ``official_documents`` and ``share`` (None without a test part), ``scores``: title of a figure -> ``precision``,
        ``recall``, ``f1``, ``f1_interval`` (95 %, over abstracts), and ``tp``, ``fp``, ``fn`` unless it is macro.
    """
    results = {}
    for protocol in PROTOCOLS:
        own = [one for one in read if protocol.scores(one.gold)]
        if not own:
            continue
        parts = (d for d in known if d.source == protocol.source and d.split in ("train", "validation"))
        abstracts = numpy.unique([one.gold.pmid for one in own], return_inverse=True)[1]
        resampling = Resampling(abstracts, resamples, seed)
        results[protocol.name] = {
            "title": protocol.title,
            "source": protocol.source,
            "rule": protocol.rule,
            "documents": len(own),
            "official_documents": protocol.official,
            "share": len(own) / protocol.official if protocol.official else None,
            "scores": {
                title: _scores(sides, resampling, macro=title.endswith("macro"))
                for title, sides in protocol.rows(own, names_of(parts)).items()
            },
        }
    return results


def mentions(one: ReadDocument, *, nested: bool) -> Sides:
    """Return mentions as (begin, end, type): found is every place of every listed name.

    Unless they may be nested, of overlapping ones the longest counts, of equally long ones the first; one place of two
    types is two mentions. A name that stands nowhere in the text is an item, too, which nothing can match.
    """
    entities = one.found.entities
    unplaced = {(None, fold(entity.text), entity.type) for entity in entities if not entity.occurrences}
    places = {(place.begin, place.end, entity.type) for entity in entities for place in entity.occurrences}
    kept: list[tuple[int, int, str]] = []
    for begin, end, kind in sorted(places, key=lambda place: (place[0] - place[1], place)):
        if nested or all(end <= b or e <= begin or (begin, end) == (b, e) for b, e, _ in kept):
            kept.append((begin, end, kind))
    return {*kept, *unplaced}, {(m.begin, m.end, m.type) for m in one.gold.mentions}


def placed_relations(one: ReadDocument) -> Sides:
    """Return relations as (head, tail, type), with begin, end and type of an argument's first mention."""

    def place(argument: Argument) -> Item:
        first = argument.occurrences[0] if argument.occurrences else None
        return (first.begin, first.end, argument.type) if first else (None, fold(argument.text), argument.type)

    first = {name: (m.begin, m.end, m.type) for name, m in canonical_mentions(one.gold).items()}
    gold = {(first[relation.head], first[relation.tail], relation.type) for relation in one.gold.relations}
    return {(place(r.head), place(r.tail), r.type) for r in one.found.relations}, gold


def names_of(documents: Iterable[Document]) -> Names:
    """Return what each name means: the ids that its mentions carry most often; of as many, the first ones."""
    counts: dict[str, Counter[tuple[str, ...]]] = {}
    for mention in (mention for document in documents for mention in document.mentions):
        counts.setdefault(fold(mention.text), Counter())[tuple(sorted(mention.concepts))] += 1
    return {name: min(found, key=lambda ids: (-found[ids], ids)) for name, found in counts.items()}


def concept_pairs(one: ReadDocument, names: Names, *, directed: bool, typed: bool) -> Sides:
    """Return relations as pairs of concept ids, with or without order and type.

    A name that means nothing stands for itself, so that its pairs are wrong; one of several ids makes a pair with each.
    """

    def item(kind: str, head: str, tail: str) -> Item:
        pair = (head, tail) if directed else (min(head, tail), max(head, tail))
        return (*pair, kind) if typed else pair

    def ids(argument: Argument) -> tuple[str, ...]:
        return names.get(fold(argument.text), (surface_concept(argument.text),))

    found = {item(r.type, head, tail) for r in one.found.relations for head in ids(r.head) for tail in ids(r.tail)}
    return found, {item(relation.type, relation.head, relation.tail) for relation in one.gold.relations}


# The protocols


def _mentions(read: Sequence[ReadDocument], names: Names) -> dict[str, list[Sides]]:
    sides = [mentions(one, nested=False) for one in read]
    return {"both types": sides, "Chemical": _of_type(sides, "Drug"), "Disease": _of_type(sides, "Disease")}


def _pairs(
    read: Sequence[ReadDocument], names: Names, *, directed: bool, typed: Mapping[str, bool]
) -> dict[str, list[Sides]]:
    linked = {"ids by the document's gold names": None, "ids by the training part's names": names}
    return {
        f"{title}, {how}": [
            concept_pairs(one, names_of([one.gold]) if known is None else known, directed=directed, typed=with_type)
            for one in read
        ]
        for title, with_type in typed.items()
        for how, known in linked.items()
    }


def _ade(read: Sequence[ReadDocument], names: Names) -> dict[str, list[Sides]]:
    kinds = {"entities": [mentions(one, nested=True) for one in read], "relations": list(map(placed_relations, read))}
    return {f"{kind}, {average}": sides for kind, sides in kinds.items() for average in ("micro", "macro")}


_LINKING = (
    "No linker is used. A name has the id that the document's gold mentions give it (so that linking is given, finding "
    "is not), or its most frequent id in the corpus' training and development part. Pairs of a name without an id are "
    "wrong."
)

PROTOCOLS = (
    Protocol(
        "bc5cdr_mentions",
        "BC5CDR mentions, strict spans",
        "bc5cdr",
        500,
        "A mention is right when its offsets in the abstract and its type are (Li et al. 2016). A listed name is a "
        "mention wherever it stands, unless a longer listed name overlaps it there.",
        _mentions,
    ),
    Protocol(
        "cdr_relations",
        "CDR relations, concept pairs",
        "bc5cdr",
        500,
        f"A relation is the pair of a chemical's and a disease's MeSH id in an abstract (Wei et al. 2016). {_LINKING}",
        partial(_pairs, directed=True, typed={"pair": True}),
    ),
    Protocol(
        "biored_pairs",
        "BioRED, concept pairs",
        "biored",
        100,
        "A relation is an unordered pair of concept ids in an abstract (Luo et al. 2022): of chemicals and diseases "
        f"alone, with this project's types instead of BioRED's and without those that it drops. {_LINKING}",
        partial(_pairs, directed=False, typed={"pair": False, "pair and type": True}),
    ),
    Protocol(
        "ade_strict",
        "ADE, strict (RE+)",
        "ade",
        None,
        "An entity is right when its place and type are, a relation when its type and the places and types of its "
        "arguments are; macro figures are means over types (Eberts and Ulges 2020). Sentences with an adverse effect "
        "alone. Published figures are means over ten folds by sentence, which leak; see combination.folds.",
        _ade,
    ),
)


def _of_type(sides: Iterable[Sides], kind: str) -> list[Sides]:
    return [({i for i in found if i[-1] == kind}, {i for i in gold if i[-1] == kind}) for found, gold in sides]


def _scores(sides: list[Sides], resampling: Resampling, *, macro: bool) -> dict[str, Any]:
    """Return figures of counts over documents; macro: means over the types that are found or gold."""
    kinds = sorted({item[-1] for side in sides for items in side for item in items}) if macro else []
    parts = [_of_type(sides, kind) for kind in kinds] or [sides]
    counts = numpy.array([[n for found, gold in one for n in _counts(found, gold)] for one in zip(*parts, strict=True)])

    def mean(figure: Figure) -> Figure:
        return lambda sums: numpy.asarray(figure(sums.reshape(*sums.shape[:-1], -1, 3)).mean(axis=-1))

    total = counts.sum(axis=0)
    figures = {"precision": precision, "recall": recall, "f1": f1}
    scores: dict[str, Any] = {name: float(mean(figure)(total)) for name, figure in figures.items()}
    if not macro:
        scores |= dict(zip(("tp", "fp", "fn"), map(int, total), strict=True))
    return {**scores, "f1_interval": resampling.interval(counts, mean(f1))}


def _counts(found: set[Item], gold: set[Item]) -> tuple[int, int, int]:
    return len(found & gold), len(found - gold), len(gold - found)
