"""One document-level split over all corpora, and the proof that nothing leaks through it.

Documents that share a PubMed id, or whose texts are near-duplicates of each other, form one group, and a group lies
in one split. The official membership of any of its documents decides first (test, then validation, then training);
a group without one is placed by the hash of its smallest PubMed id, so that adding documents moves no others.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from odin_slm.core.document import Document
from odin_slm.core.record import SPLITS, Record

PREFERRED_SOURCES = ("biored", "bc5cdr", "ade", "synthetic")
"""Where two corpora annotate one abstract and neither owns the split: BioRED first, it types the relations. Corpora
that are not named here come last, by name."""

_WORD = re.compile(r"\w+")
_PERMUTATIONS = 250
_MISSED = 1.1e-4
"""Probability with which a pair at the threshold may be missed; five rows a band just reach it at 0.7."""
_OFFICIAL_ORDER = ("test", "validation", "train")


@dataclass(frozen=True)
class Placement:
    """Where a document lies and why.

    Attributes:
        split: One of :data:`odin_slm.core.record.SPLITS`, or None where the document is not used.
        group: Smallest PubMed id of the documents that must stay together.
        rule: ``official``, ``hash``, ``shared abstract`` for one that another corpus's annotation replaces,
            ``corrected`` for one whose corrected annotation has come back from a review, or ``synthetic`` for a
            synthetic document that is a near-duplicate of a validation or test document.
    """

    split: str | None
    group: str
    rule: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"split": self.split, "group": self.group, "rule": self.rule}


def assign_splits(
    documents: Sequence[Document],
    *,
    seed: int,
    validation_ratio: float,
    test_ratio: float,
    near_duplicate: float,
    reviewed: Collection[str] = (),
) -> dict[str, Placement]:
    """Place every document in one split.

    Args:
        documents: Documents of all corpora; ids are unique.
        seed: Seed of the hash placement and of the MinHash permutations.
        validation_ratio: Share of the groups without official split that validate.
        test_ratio: Share of them that test.
        near_duplicate: Jaccard similarity of the texts' shingles from which two documents stay together.
        reviewed: Corpora that have come back from a review; each of their documents takes the place of the one with
            its text.

    Returns:
        Document id -> placement, in the order of ``documents``.
    """
    from scipy.cluster.hierarchy import DisjointSet

    by_id = {document.id: document for document in documents}
    sets = DisjointSet(by_id)
    for same in _by_pmid(documents).values():
        for other in same[1:]:
            sets.merge(same[0], other)
    ids = [document.id for document in documents]
    texts = [document.text for document in documents]
    for left, right, _ in near_duplicates(texts, ids, threshold=near_duplicate, seed=seed):
        sets.merge(ids[left], ids[right])

    members: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        members[sets[document.id]].append(document.id)

    placements: dict[str, Placement] = {}
    for together in members.values():
        group = min((by_id[i].pmid for i in together), key=_pmid_order)
        official = {by_id[i].split for i in together}
        split = next((s for s in _OFFICIAL_ORDER if s in official), None)
        rule = "official" if split else "hash"
        if split is None:
            split = _hashed_split(group, seed, validation_ratio, test_ratio)
        for i in together:
            kept = split == "train" or by_id[i].source != "synthetic"
            placements[i] = Placement(split, group, rule) if kept else Placement(None, group, "synthetic")
    corrected = {document.text: document.source for document in documents if document.source in reviewed}
    for document in documents:
        if corrected.get(document.text, document.source) != document.source:  # of two reviews the later one counts
            placements[document.id] = Placement(None, placements[document.id].group, "corrected")
    for replaced in _replaced_annotations(documents, placements, reviewed):
        placements[replaced] = Placement(None, placements[replaced].group, "shared abstract")
    return {document.id: placements[document.id] for document in documents}


def near_duplicates(
    texts: Sequence[str], owners: Sequence[str], *, threshold: float, seed: int
) -> Iterator[tuple[int, int, float]]:
    """Find pairs of texts of different owners that are near-duplicates.

    Candidates come from MinHash with locality-sensitive hashing (Leskovec, Rajaraman and Ullman, "Mining of Massive
    Datasets", chapter 3; 50 bands of 5 permutations: a pair at the default threshold 0.7 is missed with probability
    1e-4, and lower thresholds get more bands of fewer, so that no more is missed there). Those whose sketches agree
    by 0.2 less than the threshold are dropped (five standard deviations: one in a million at the threshold); the rest
    is confirmed by the exact Jaccard similarity of the shingle sets. Shingles are character 5-grams of the lower-cased
    words in Unicode NFKC, so that the short sentences of ADE are compared as well as abstracts.

    Args:
        texts: The texts.
        owners: The document that each of them belongs to.
        threshold: Jaccard similarity from which a pair is reported.
        seed: Seed of the permutations.

    Yields:
        (index, index, Jaccard similarity), left index first.
    """
    from rensa import RMinHash, RMinHashLSH

    # Shingles are made again for the few candidates: kept, those of 100,000 documents would take gigabytes.
    shingles = lru_cache(maxsize=1024)(lambda position: _shingles(texts[position]))
    rows = _rows_of_a_band(threshold)
    permutations = _PERMUTATIONS // rows * rows
    index = RMinHashLSH(threshold=threshold, num_perm=permutations, num_bands=permutations // rows)
    sketches = []
    for key, text in enumerate(texts):
        sketch = RMinHash(num_perm=permutations, seed=seed)
        sketch.update(list(_shingles(text)))  # a sketch is a minimum: order does not matter
        index.insert(key, sketch)
        sketches.append(sketch)
    for left, sketch in enumerate(sketches):
        for right in sorted(index.query(sketch)):
            if right <= left or owners[left] == owners[right]:
                continue
            # texts of one author's templates are candidates by the million, and sets of shingles are slow to make
            if sketch.jaccard(sketches[right]) < threshold - 0.2:
                continue
            similarity = _jaccard(shingles(left), shingles(right))
            if similarity >= threshold:
                yield left, right, similarity


def find_leaks(
    splits: Mapping[str, Sequence[Record]],
    pmids: Mapping[str, str],
    *,
    near_duplicate: float,
    seed: int,
    subject: Callable[[Record], str] = lambda record: record["input"],
) -> dict[str, list[dict[str, Any]]]:
    """Look for anything that lies in two splits, from the finished splits alone.

    Args:
        splits: Split name -> records.
        pmids: Document id -> PubMed id.
        near_duplicate: Jaccard similarity that counts as a leak.
        seed: Seed of the MinHash permutations; another than the split was made with makes this a second opinion.
        subject: What of a record is compared; see :meth:`odin_slm.tasks.Task.subject`.

    Returns:
        ``exact_inputs``, ``pmids`` and ``near_duplicates``: one entry per leak, naming the documents.
    """
    records = [record for name in splits for record in splits[name]]
    subjects = [subject(record) for record in records]
    split_of = [name for name in splits for _ in splits[name]]
    by_input: dict[str, list[int]] = defaultdict(list)
    by_pmid: dict[str, list[int]] = defaultdict(list)
    for position, record in enumerate(records):
        by_input[_words(subjects[position])].append(position)
        by_pmid[pmids[record["document_id"]]].append(position)

    def crossing(groups: Iterable[list[int]]) -> list[dict[str, Any]]:
        return [
            {
                "documents": sorted({records[i]["document_id"] for i in group}),
                "splits": sorted({split_of[i] for i in group}),
            }
            for group in groups
            if len({split_of[i] for i in group}) > 1
        ]

    near = [
        {
            "documents": [records[left]["document_id"], records[right]["document_id"]],
            "splits": [split_of[left], split_of[right]],
            "jaccard": round(similarity, 4),
        }
        for left, right, similarity in near_duplicates(
            subjects,
            [record["document_id"] for record in records],
            threshold=near_duplicate,
            seed=seed,
        )
        if split_of[left] != split_of[right]
    ]
    return {
        "exact_inputs": crossing(by_input.values()),
        "pmids": crossing(by_pmid.values()),
        "near_duplicates": near,
    }


def _replaced_annotations(
    documents: Sequence[Document], placements: Mapping[str, Placement], reviewed: Collection[str]
) -> Iterator[str]:
    """Yield the documents whose abstract another corpus annotates too and whose annotation is not used.

    One abstract, one annotation: of whole abstracts with the same PubMed id, the one whose corpus officially puts it
    into the split it landed in is kept, so that official test sets stay complete; then what was reviewed; then
    :data:`PREFERRED_SOURCES`.
    Sentences (ADE) are no whole abstracts: they stay, in the same split.
    """
    abstracts = {d.id: d for d in documents if d.split is not None and placements[d.id].split is not None}
    for ids in _by_pmid(list(abstracts.values())).values():
        shared = [abstracts[i] for i in ids]
        if len({document.source for document in shared}) < 2:
            continue
        keep = min(
            shared,
            key=lambda d: (d.split != placements[d.id].split, d.source not in reviewed, *_preference(d.source)),
        )
        yield from (document.id for document in shared if document.source != keep.source)


def _preference(source: str) -> tuple[int, str]:
    known = PREFERRED_SOURCES.index(source) if source in PREFERRED_SOURCES else len(PREFERRED_SOURCES)
    return known, source


def _by_pmid(documents: Sequence[Document]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        groups[document.pmid].append(document.id)
    return groups


def _hashed_split(group: str, seed: int, validation_ratio: float, test_ratio: float) -> str:
    position = int(_digest(seed, group)[:12], 16) / 16**12
    train, validation, test = SPLITS
    if position < test_ratio:
        return test
    return validation if position < test_ratio + validation_ratio else train


def _digest(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def _pmid_order(pmid: str) -> tuple[int, str]:
    return len(pmid), pmid


def _rows_of_a_band(threshold: float) -> int:
    """Return how many permutations make a band: the most with which pairs at the threshold are hardly missed."""
    return next((n for n in (5, 4, 3, 2) if (1 - threshold**n) ** (_PERMUTATIONS // n) <= _MISSED), 1)


def _words(text: str) -> str:
    # corpora write one letter as one character or as two, and take ligatures over from print
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _shingles(text: str) -> set[str]:
    normal = _words(text)
    return {normal[i : i + 5] for i in range(max(1, len(normal) - 4))}


def _jaccard(left: set[str], right: set[str]) -> float:
    return len(left & right) / len(left | right)
