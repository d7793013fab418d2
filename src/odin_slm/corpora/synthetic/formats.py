"""Write documents in the public corpora's own formats, so that the parsers read them back.

The synthetic sample goes through the same files and the same parsers as the real corpora. Each function says what its
format can express; anything else raises ValueError, because only our own generator feeds them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

from odin_slm.core.document import Document, Mention
from odin_slm.core.record import SPLITS
from odin_slm.core.sentences import sentence_spans
from odin_slm.corpora import ade, bc5cdr, biored

_SURFACE = "text:"
_COORDINATED = re.compile(r"(\S+) and (\S+) (.+)", re.DOTALL)
_BIORED_ENTITIES = {kind: name for name, kind in biored.ENTITIES.items()}
_BIORED_RELATIONS = {
    **{("Disease", mapped): name for name, mapped in biored.CHEMICAL_DISEASE.items()},
    ("Drug", "interacts_with"): "Drug_Interaction",
    ("Drug", "associated_with"): "Association",
}


def write_ade(documents: Sequence[Document], negatives: Iterable[Document]) -> dict[str, str]:
    r"""Write ``DRUG-AE.rel`` and ``ADE-NEG.txt``.

    Offsets are those of the sentence in a case report ``PMID\n\nTitle\n\nAbstract`` whose sentences are the
    documents of that PMID, in order.

    Args:
        documents: Sentences in which every mention takes part in a relation.
        negatives: Sentences without an adverse event.
    """
    lines = []
    starts: dict[str, int] = {}
    for document in documents:
        start = starts.get(document.pmid, len(document.pmid) + 2)
        # The first sentence is the title, with an empty line after it.
        starts[document.pmid] = start + len(document.text) + (1 if document.pmid in starts else 2)
        named: dict[tuple[str, str], list[Mention]] = {}
        for mention in document.mentions:
            for concept in mention.concepts:
                named.setdefault((mention.type, concept), []).append(mention)
        for relation in document.relations:
            drugs, effects = named["Drug", relation.head], named["Symptom", relation.tail]
            for drug, effect in zip_longest(drugs, effects):
                drug, effect = drug or drugs[-1], effect or effects[-1]
                lines.append(
                    f"{document.pmid}|{document.text}"
                    f"|{effect.text}|{start + effect.begin}|{start + effect.end}"
                    f"|{drug.text}|{start + drug.begin}|{start + drug.end}\n"
                )
    return {
        ade.EFFECTS_FILE: "".join(lines),
        ade.NEGATIVES_FILE: "".join(f"{document.pmid} NEG {document.text}\n" for document in negatives),
    }


def write_bc5cdr(documents: Sequence[Document]) -> dict[str, str]:
    """Write the three ``CDR_*Set.PubTator.txt`` by the documents' split; ``causes`` becomes CID."""
    kinds = {kind: name for name, kind in bc5cdr.ENTITIES.items()}
    texts = dict.fromkeys(bc5cdr.FILES.values(), "")
    for document in documents:
        annotations = []
        for m in document.mentions:
            row = [str(m.begin), str(m.end), m.text, kinds[m.type], _identifiers(m, "|", "-1")]
            if len(m.concepts) > 1:
                row.append("|".join(_parts(m)))
            annotations.append(row)
        relations = [["CID", r.head, r.tail] for r in document.relations]
        texts[bc5cdr.FILES[_split(document)]] += _pubtator(document, annotations, relations)
    return texts


def write_biored(documents: Sequence[Document]) -> dict[str, str]:
    """Write the members of ``BIORED.zip``, BioC JSON and PubTator, by the documents' split."""
    members: dict[str, str] = {}
    for split, bioc_name, pubtator_name in zip(SPLITS, biored.BIOC_MEMBERS, biored.PUBTATOR_MEMBERS, strict=True):
        chosen = [document for document in documents if _split(document) == split]
        collection = {
            "source": "PubTator",
            "date": "2021-11-30",
            "key": "BioC.key",
            "documents": [_bioc(document) for document in chosen],
        }
        members[bioc_name] = json.dumps(collection, ensure_ascii=False)
        members[pubtator_name] = "".join(
            _pubtator(
                document,
                [
                    [str(m.begin), str(m.end), m.text, _BIORED_ENTITIES[m.type], _identifiers(m, ",", "-")]
                    for m in document.mentions
                ],
                [[*relation, "No"] for relation in _biored_relations(document)],
            )
            for document in chosen
        )
    return members


def title_end(text: str) -> int:
    """Return where the title ends: at a space after the first sentence, or at the first space after that.

    Raises:
        ValueError: The text has no such space, or a line break, which these formats cannot hold.
    """
    end = text.find(" ", sentence_spans(text)[0][1])
    end = end if end >= 0 else text.find(" ")
    if end < 0 or "\n" in text or "\r" in text:
        raise ValueError("A text of one word, or with a line break, cannot be cut into title and abstract.")
    return end


def _pubtator(document: Document, annotations: list[list[str]], relations: list[list[str]]) -> str:
    end = title_end(document.text)
    lines = [f"{document.pmid}|t|{document.text[:end]}", f"{document.pmid}|a|{document.text[end + 1 :]}"]
    lines += ["\t".join((document.pmid, *row)) for row in (*annotations, *relations)]
    return "\n".join(lines) + "\n\n"


def _bioc(document: Document) -> dict[str, Any]:
    end = title_end(document.text)
    annotations = [
        {
            "id": str(number),
            "infons": {"identifier": _identifiers(m, ",", "-"), "type": _BIORED_ENTITIES[m.type]},
            "text": m.text,
            "locations": [{"offset": m.begin, "length": m.end - m.begin}],
        }
        for number, m in enumerate(document.mentions)
    ]
    in_title = sum(m.begin <= end for m in document.mentions)
    return {
        "id": document.pmid,
        "passages": [
            {"offset": 0, "text": document.text[:end], "annotations": annotations[:in_title]},
            {"offset": end + 1, "text": document.text[end + 1 :], "annotations": annotations[in_title:]},
        ],
        "relations": [
            {"id": f"R{number}", "infons": {"entity1": head, "entity2": tail, "type": kind, "novel": "No"}}
            for number, (kind, head, tail) in enumerate(_biored_relations(document))
        ],
    }


def _biored_relations(document: Document) -> list[tuple[str, str, str]]:
    types = {concept: m.type for m in document.mentions for concept in m.concepts}
    return [(_BIORED_RELATIONS[types[r.tail], r.type], r.head, r.tail) for r in document.relations]


def _identifiers(mention: Mention, separator: str, unknown: str) -> str:
    return separator.join(unknown if concept.startswith(_SURFACE) else concept for concept in mention.concepts)


def _parts(mention: Mention) -> list[str]:
    """Name the parts of a composite mention as BC5CDR's seventh column does."""
    match = _COORDINATED.fullmatch(mention.text)
    if match and len(mention.concepts) == 2:
        return [f"{match[1]} {match[3]}", f"{match[2]} {match[3]}"]
    return [mention.text] * len(mention.concepts)


def _split(document: Document) -> str:
    if document.split is None:
        raise ValueError(f"Document {document.id} has no official split, which the file name states.")
    return document.split
