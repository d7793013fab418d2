"""BC5CDR: abstracts with chemicals, diseases and chemical-induced diseases.

Source: Li et al. 2016, "BioCreative V CDR task corpus: a resource for chemical disease relation extraction". ``CID``
relations hold between MeSH ids of the whole abstract. A composite mention ("renal and hepatic failure") carries
several ids joined by ``|``; its seventh column names the parts, which are often not verbatim, so only the span counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from odin_slm.core.document import Document, Mention, Relation
from odin_slm.corpora import pubtator
from odin_slm.corpora.faults import Faults
from odin_slm.corpora.parsed import Corpus, ParsedCorpus, concepts_of, known_type
from odin_slm.corpora.pubtator import AnnotatedText
from odin_slm.tasks.extraction.schema import SCHEMAS

FILES = {
    "train": "CDR_TrainingSet.PubTator.txt",
    "validation": "CDR_DevelopmentSet.PubTator.txt",
    "test": "CDR_TestSet.PubTator.txt",
}
ENTITIES = {"Chemical": "Drug", "Disease": "Disease"}


def parse(files: Mapping[str, str]) -> ParsedCorpus:
    """Turn the three PubTator files into one document per abstract, with its official split.

    Some public copies of the training file also hold the development set: an abstract that two files share keeps the
    later split (test before validation before train), and the report counts it.

    Args:
        files: File name -> text, for the names in :data:`FILES`.

    Raises:
        MissingInputError: A file was not given.
        CorpusFormatError: Lines break the format, or one PMID has two texts; all of them, with ``file:line``.
    """
    return pubtator.parse_splits("bc5cdr", SCHEMAS["bc5cdr"], FILES, files, pubtator.read, _document)


def _document(item: AnnotatedText, split: str, dropped: Counter[str], faults: Faults) -> Document:
    mentions = set()
    for annotation in item.annotations:
        with faults.collected():
            kind = known_type("entity", annotation.type, ENTITIES, annotation.where)
            concepts = concepts_of(annotation.identifiers.split("|"), annotation.text)
            mentions.add(Mention(annotation.begin, annotation.end, annotation.text, ENTITIES[kind], concepts))
    carried = {(mention.type, concept) for mention in mentions for concept in mention.concepts}
    relations: dict[Relation, None] = {}
    for relation in item.relations:
        with faults.collected():
            known_type("relation", relation.type, ("CID",), relation.where)
            if ("Drug", relation.first) not in carried or ("Disease", relation.second) not in carried:
                dropped["relation: CID without a mention of its concepts"] += 1
            else:
                relations[Relation("causes", relation.first, relation.second)] = None
    return Document(
        f"bc5cdr-{item.pmid}", item.text, "bc5cdr", item.pmid, split, tuple(sorted(mentions)), tuple(relations)
    )


CORPUS = Corpus("bc5cdr", SCHEMAS["bc5cdr"], parse)
