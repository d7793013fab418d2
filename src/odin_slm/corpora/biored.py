"""BioRED: abstracts with relations among chemicals, diseases, genes and variants.

Source: Luo et al. 2022, "BioRED: a rich biomedical relation extraction dataset". Chemicals and diseases are kept;
genes, variants, species and cell lines, and every relation with one of them, are dropped and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from odin_slm.core.document import Document, Mention, Relation
from odin_slm.corpora import bioc, pubtator
from odin_slm.corpora.faults import Faults
from odin_slm.corpora.parsed import Corpus, ParsedCorpus, concepts_of, known_type
from odin_slm.corpora.pubtator import AnnotatedText, ConceptRelation
from odin_slm.tasks.extraction.schema import SCHEMAS

SPLIT_FILES = {"train": "Train", "validation": "Dev", "test": "Test"}
BIOC_MEMBERS = tuple(f"BioRED/{stem}.BioC.JSON" for stem in SPLIT_FILES.values())
PUBTATOR_MEMBERS = tuple(f"BioRED/{stem}.PubTator" for stem in SPLIT_FILES.values())

ENTITIES = {"ChemicalEntity": "Drug", "DiseaseOrPhenotypicFeature": "Disease"}
DROPPED_ENTITIES = frozenset({"GeneOrGeneProduct", "SequenceVariant", "OrganismTaxon", "CellLine"})

CHEMICAL_DISEASE = {
    # A positive correlation says that the chemical brings the disease about or worsens it. This is wider than BC5CDR's
    # CID, but has its direction. A negative one says that it treats or prevents it.
    "Positive_Correlation": "causes",
    "Negative_Correlation": "treats",
    "Association": "associated_with",
}
CHEMICAL_CHEMICAL = {
    # A chemical that raises or lowers another's level, effect or toxicity acts on it, as in a declared interaction.
    "Drug_Interaction": "interacts_with",
    "Positive_Correlation": "interacts_with",
    "Negative_Correlation": "interacts_with",
    # An association claims no effect of one on the other, and drugs of a combined treatment are given together
    # without a statement that they act on each other: to call either an interaction would be an invention.
    "Association": "associated_with",
    "Cotreatment": "associated_with",
}
DROPPED_RELATIONS = frozenset({"Comparison", "Conversion", "Bind"})
"""They state no effect at all: which drug is better, what is metabolised into what, what binds where."""

_RELATION_TYPES = sorted({*CHEMICAL_DISEASE, *CHEMICAL_CHEMICAL, *DROPPED_RELATIONS})
_SEPARATORS = re.compile(r"[,|;]")


def parse(files: Mapping[str, str]) -> ParsedCorpus:
    """Turn the members of ``BIORED.zip`` into one document per abstract, with its official split.

    Args:
        files: Member name -> text: :data:`BIOC_MEMBERS`, or else :data:`PUBTATOR_MEMBERS`, which give the same
            documents. BioC is read where both are there.

    Raises:
        MissingInputError: A member was not given.
        CorpusFormatError: Members break their format, or one PMID has two texts; all places, with ``file:line``.
    """
    as_bioc = any(name in files for name in BIOC_MEMBERS) or not any(name in files for name in PUBTATOR_MEMBERS)
    members = BIOC_MEMBERS if as_bioc else PUBTATOR_MEMBERS
    names = dict(zip(SPLIT_FILES, members, strict=True))
    read = bioc.read if as_bioc else pubtator.read
    return pubtator.parse_splits("biored", SCHEMAS["biored"], names, files, read, _document)


def _document(item: AnnotatedText, split: str, dropped: Counter[str], faults: Faults) -> Document:
    mentions = set()
    types: dict[str, str] = {}
    for annotation in item.annotations:
        with faults.collected():
            known_type("entity", annotation.type, (*ENTITIES, *sorted(DROPPED_ENTITIES)), annotation.where)
        kind = ENTITIES.get(annotation.type)
        if kind is None:
            dropped[f"mention: {annotation.type}"] += 1
            # A variant's own id may contain a separator, so it is never split.
            types.setdefault(annotation.identifiers, "other")
            for part in _SEPARATORS.split(annotation.identifiers):
                types.setdefault(part, "other")
            continue
        concepts = concepts_of(_SEPARATORS.split(annotation.identifiers), annotation.text)
        mentions.add(Mention(annotation.begin, annotation.end, annotation.text, kind, concepts))
    types |= {concept: mention.type for mention in sorted(mentions) for concept in mention.concepts}
    relations: dict[Relation, None] = {}
    for relation in item.relations:
        with faults.collected():
            known_type("relation", relation.type, _RELATION_TYPES, relation.where)
        for first in _arguments(relation.first, types):
            for second in _arguments(relation.second, types):
                mapped = _relation(relation, first, second, types, dropped)
                if mapped in relations:
                    dropped["relation: repeated after mapping"] += 1
                elif mapped:
                    relations[mapped] = None
    return Document(
        f"biored-{item.pmid}", item.text, "biored", item.pmid, split, tuple(sorted(mentions)), tuple(relations)
    )


def _arguments(identifier: str, types: dict[str, str]) -> list[str]:
    """Return the concepts that a relation's argument names: several where it repeats a composite mention's id."""
    parts = _SEPARATORS.split(identifier)
    return [identifier] if identifier in types or not all(part in types for part in parts) else parts


def _relation(
    relation: ConceptRelation, head: str, tail: str, types: dict[str, str], dropped: Counter[str]
) -> Relation | None:
    """Map one relation between two concepts; the chemical is the head, between two chemicals the file's order holds."""
    kinds = [types.get(head), types.get(tail)]
    if None in kinds:
        dropped["relation: a concept without a mention"] += 1
        return None
    if "other" in kinds:
        dropped["relation: with a gene, variant, species or cell line"] += 1
        return None
    if head == tail:
        dropped["relation: of a concept to itself"] += 1
        return None
    if kinds == ["Drug", "Drug"]:
        mapped, pair = CHEMICAL_CHEMICAL.get(relation.type), "chemical-chemical"
    elif kinds == ["Disease", "Disease"]:
        mapped, pair = None, "disease-disease"
    else:
        mapped, pair = CHEMICAL_DISEASE.get(relation.type), "chemical-disease"
        if kinds[0] == "Disease":
            head, tail = tail, head
    if mapped is None:
        dropped[f"relation: {pair} {relation.type}"] += 1
        return None
    return Relation(mapped, head, tail)


CORPUS = Corpus("biored", SCHEMAS["biored"], parse)
