"""The sample that the repository carries: synthetic corpora in the public corpora's formats, traps included.

The public corpora are not redistributed here, so the default run reads this instead, through the same parsers. It
keeps what makes the real ones hard: documents that two corpora share with conflicting official splits, near-duplicate
and repeated sentences, composite and overlapping mentions, mentions without a concept.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from odin_slm.core.document import Document, Relation, crop, surface_concept
from odin_slm.corpora import ade
from odin_slm.corpora.synthetic import vocabulary
from odin_slm.corpora.synthetic.formats import title_end, write_ade, write_bc5cdr, write_biored
from odin_slm.corpora.synthetic.generator import generate

README = """# Synthetic sample

Everything in this folder is synthetic: generated text with invented drugs, diseases and findings, in the file formats
of three public corpora (ADE Corpus V2, BC5CDR, BioRED). It contains no sentence of them and no medical knowledge; a
model trained on it is a demonstration of the software. PubMed ids begin with 99, a range that PubMed has not reached.

Written by `kedro run --pipelines sample`; the same seed writes the same texts.
"""

_ADE_EXTRA = 3
"""ADE documents to draw per sentence wanted: some are negative."""


def make_sample(seed: int, documents_per_corpus: int = 700) -> dict[str, dict[str, str]]:
    """Write the three corpora as their publishers' files.

    Args:
        seed: Equal seeds give equal texts.
        documents_per_corpus: Abstracts of BC5CDR and of BioRED, 60 % training, 20 % validation, 20 % test; sentences
            with an adverse event in ADE, and as many without.

    Returns:
        Folder -> file name -> text. ``.`` is the sample's own folder; ``biored`` holds the members of ``BIORED.zip``.
    """
    biored = _with_splits(generate(documents_per_corpus, seed, "biored"))
    shared = max(2, documents_per_corpus // 15)
    # Abstracts that both corpora annotate, of all BioRED splits; in BC5CDR they come last, so in its test set.
    causal = [document for document in biored if any(r.type == "causes" for r in document.relations)]
    also = [_as_bc5cdr(document) for document in causal[:: max(1, len(causal) // shared)][:shared]]
    bc5cdr = _with_splits([*generate(documents_per_corpus - len(also), seed, "bc5cdr"), *also])

    drawn = generate(_ADE_EXTRA * documents_per_corpus, seed, "ade")
    titles = [_title(document) for document in bc5cdr]
    from_titles = list(islice((title for title in titles if title.relations), max(1, documents_per_corpus // 100)))
    positives = [document for document in drawn if document.relations][: documents_per_corpus - len(from_titles) - 1]
    positives += [*from_titles, _near_duplicate(positives)]
    negatives = [document for document in drawn if not document.relations][:documents_per_corpus]
    # Real files repeat sentences, and hold some under both labels.
    negatives += [negatives[0], replace(positives[1], text=positives[1].text.upper())]

    return {
        ".": {"README.md": README},
        "ade": {**write_ade(positives, negatives), ade.DOSAGES_FILE: _dosages(positives, seed)},
        "bc5cdr": write_bc5cdr(bc5cdr),
        "biored": write_biored(biored),
    }


def _with_splits(documents: Sequence[Document]) -> list[Document]:
    first, second = round(len(documents) * 0.6), round(len(documents) * 0.8)
    return [
        replace(document, split="train" if n < first else "validation" if n < second else "test")
        for n, document in enumerate(documents)
    ]


def _as_bc5cdr(document: Document) -> Document:
    """Annotate a BioRED abstract by BC5CDR's rules: the same mentions, only ``causes``."""
    return replace(
        document,
        id=f"bc5cdr-{document.pmid}",
        source="bc5cdr",
        relations=tuple(relation for relation in document.relations if relation.type == "causes"),
    )


def _title(document: Document) -> Document:
    """Annotate the title of a BC5CDR abstract by ADE's rules; a title with a composite mention gets no relation."""
    title = crop(document, 0, title_end(document.text), "")
    relations = () if any(len(m.concepts) > 1 for m in title.mentions) else title.relations
    surfaces = {m.concepts[0]: surface_concept(m.text) for m in title.mentions}
    involved = {concept for relation in relations for concept in (relation.head, relation.tail)}
    mentions = tuple(
        replace(m, type="Drug" if m.type == "Drug" else "Symptom", concepts=(surface_concept(m.text),))
        for m in title.mentions
        if m.concepts[0] in involved
    )
    return replace(
        title,
        id=f"ade-{title.pmid}-1",
        source="ade",
        split=None,
        mentions=mentions,
        relations=tuple(Relation(r.type, surfaces[r.head], surfaces[r.tail]) for r in relations),
    )


def _near_duplicate(documents: Sequence[Document]) -> Document:
    """Report one case again, under another PMID and with one word in front."""
    longest = max(documents, key=lambda document: len(document.text))
    pmid = str(min(int(document.pmid) for document in documents) - 1)
    lead = "Again, "
    return replace(
        longest,
        id=f"ade-{pmid}-1",
        pmid=pmid,
        text=lead + longest.text,
        mentions=tuple(replace(m, begin=m.begin + len(lead), end=m.end + len(lead)) for m in longest.mentions),
    )


def _dosages(documents: Sequence[Document], seed: int) -> str:
    """Write ``DRUG-DOSE.rel``: one sentence for every tenth case report."""
    rng = random.Random(f"{seed}/dosages")
    lines = []
    for document in documents[::10]:
        drug, dose = vocabulary.drug(rng), f"{rng.choice((5, 10, 20, 50, 100))} mg"
        sentence = f"The patient had been given {drug} {dose} for {rng.randint(2, 30)} days."
        start = len(document.pmid) + 2 + len(document.text) + 2
        place, dose_place = start + sentence.index(drug), start + sentence.index(dose)
        lines.append(
            f"{document.pmid}|{sentence}|{dose}|{dose_place}|{dose_place + len(dose)}"
            f"|{drug}|{place}|{place + len(drug)}\n"
        )
    return "".join(lines)
