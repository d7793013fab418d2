"""One document-level split over all corpora, and the proof that nothing leaks through it.

Documents that share a PubMed id, or whose texts are near-duplicates of each other, form one group, and so do those of
which one stands within the other, where no PubMed ids tell whether they are of one abstract. A group lies in one split.
The official membership of any of its documents decides first (test, then validation, then training);
a group without one is placed by the hash of its smallest PubMed id, so that adding documents moves no others.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

import numpy

from odin_slm.core.document import Document
from odin_slm.core.hashing import short_digest
from odin_slm.core.processes import mapped
from odin_slm.core.record import SPLITS, Record
from odin_slm.core.rows import Joined, Mapped

PREFERRED_SOURCES = ("biored", "bc5cdr", "ade", "synthetic")
"""Where two corpora annotate one abstract and neither owns the split: BioRED first, it types the relations. Corpora
that are not named here come last, by name."""

_WORD = re.compile(r"\w+")
_PERMUTATIONS = 250
_MISSED = 1.1e-4
"""Probability with which a pair at the threshold may be missed; bands of five rows just reach it at 0.7."""
_OFFICIAL_ORDER = ("test", "validation", "train")
_AT_ONCE = 4096
_CONTAINED_WORDS = 10
"""Words from which a text is looked for within others; what is shorter may be a phrase that anybody writes."""
_SAME_ABSTRACT = 0.5
"""Similarity of the texts of two corpora from which they are one abstract; title and labels may be set differently."""
Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a document lies and why.

    Attributes:
        split: One of :data:`odin_slm.core.record.SPLITS`, or None where the document is not used.
        group: Smallest PubMed id of the documents that must stay together.
        rule: ``official``, ``hash`` (also where a document of an official validation part trains), ``fold`` of a
            cross-validation, ``shared abstract`` for one that another corpus's annotation replaces, ``corrected`` for
            one whose corrected annotation has come back from a review, or ``synthetic`` for a synthetic document that
            is a near-duplicate of a validation or test document.
    """

    split: str | None
    group: str
    rule: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"split": self.split, "group": self.group, "rule": self.rule}


@dataclass(frozen=True, slots=True)
class Folds:
    """A cross-validation.

    Attributes:
        count: How many folds there are.
        test: Which of them tests, from 0 on.
        by_document: Whether documents are placed one by one, so that those of one group lie in several folds.
    """

    count: int
    test: int
    by_document: bool = False


def assign_splits(
    documents: Sequence[Document],
    *,
    seed: int,
    validation_ratio: float,
    test_ratio: float,
    near_duplicate: float,
    official_validation: float = 1.0,
    folds: Folds | None = None,
    reviewed: Collection[str] = (),
    texts: Sequence[str] | None = None,
) -> dict[str, Placement]:
    """Place every document in one split.

    Args:
        documents: Documents of all corpora; ids are unique. Neither mentions nor relations are looked at.
        seed: Seed of the hash placement and of the MinHash permutations.
        validation_ratio: Share of the groups without official split that validate.
        test_ratio: Share of them that test.
        near_duplicate: Jaccard similarity of the texts' shingles from which two documents stay together.
        official_validation: Share of the groups of an official validation part that validate; the others train.
        folds: Cross-validation that takes the place of official splits and of ``test_ratio``; synthetic documents are
            in no fold, and train.
        reviewed: Corpora that have come back from a review; each of their documents takes the place of the one with
            its text.
        texts: Their texts, where those of ``documents`` are empty because memory has no room for them.

    Returns:
        Document id -> placement, in the order of ``documents``.
    """
    texts = Mapped(attrgetter("text"), documents) if texts is None else texts
    groups = _groups(documents, texts, near_duplicate=near_duplicate, seed=seed)
    shares = validation_ratio, test_ratio, official_validation
    placed = _placed_groups(groups, documents, seed, shares, folds)
    placements: dict[str, Placement] = {}
    for group, document in zip(groups, documents, strict=True):
        kept = placed[group].split == "train" or document.source != "synthetic"
        placements[document.id] = placed[group] if kept else Placement(None, placed[group].group, "synthetic")
        if folds and folds.by_document and document.source != "synthetic":
            split = _fold_split(document.id, seed, validation_ratio, folds)
            placements[document.id] = Placement(split, placed[group].group, "fold")
    if reviewed:
        pairs = list(zip(documents, texts, strict=True))
        corrected = {text: document.source for document, text in pairs if document.source in reviewed}
        for document, text in pairs:
            if corrected.get(text, document.source) != document.source:  # of two reviews the later one counts
                placements[document.id] = Placement(None, placements[document.id].group, "corrected")
    for replaced in _replaced_annotations(documents, texts, placements, reviewed):
        placements[replaced] = Placement(None, placements[replaced].group, "shared abstract")
    return placements


def _placed_groups(
    groups: Sequence[int],
    documents: Sequence[Document],
    seed: int,
    shares: tuple[float, float, float],
    folds: Folds | None,
) -> dict[int, Placement]:
    """Return the place of every group; shares are validation_ratio, test_ratio and official_validation."""
    validation_ratio, test_ratio, official_validation = shares
    names: dict[int, str] = {}
    official: dict[int, int] = {}
    folded: set[int] = set()
    for group, document in zip(groups, documents, strict=True):
        names[group] = min(names.get(group, document.pmid), document.pmid, key=lambda pmid: (len(pmid), pmid))
        if document.split is not None:
            official[group] = min(official.get(group, len(SPLITS)), _OFFICIAL_ORDER.index(document.split))
        if document.source != "synthetic":
            folded.add(group)

    def place(group: int, name: str) -> Placement:
        if folds and group in folded:
            return Placement(_fold_split(name, seed, validation_ratio, folds), name, "fold")
        if group not in official:
            return Placement(_hashed_split(name, seed, validation_ratio, test_ratio), name, "hash")
        split = _OFFICIAL_ORDER[official[group]]
        if split == "validation" and _position(f"{seed}:validation:{name}") >= official_validation:
            return Placement("train", name, "hash")
        return Placement(split, name, "official")

    return {group: place(group, name) for group, name in names.items()}


def _groups(documents: Sequence[Document], texts: Sequence[str], *, near_duplicate: float, seed: int) -> list[int]:
    """Return the number of every document's group: those that share a PubMed id or a text, or are near-duplicates."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first: dict[str, int] = {}
    pairs = [(first.setdefault(document.pmid, number), number) for number, document in enumerate(documents)]
    near = near_duplicates(texts, range(len(texts)), threshold=near_duplicate, seed=seed)
    pairs += [(left, right) for left, right, _ in near]
    pairs += contained(texts, [document.pmid for document in documents])
    left, right = numpy.array(pairs, dtype=numpy.int32).reshape(-1, 2).T
    edges = coo_array((numpy.ones(len(left), dtype=bool), (left, right)), shape=(len(documents),) * 2)
    groups: list[int] = connected_components(edges, directed=False)[1].tolist() if len(documents) else []
    return groups


def near_duplicates(
    texts: Sequence[str],
    owners: Sequence[Hashable],
    *,
    threshold: float,
    seed: int,
    sides: Sequence[int] | None = None,
) -> Iterator[tuple[int, int, float]]:
    """Find pairs of texts of different owners that are near-duplicates.

    Candidates come from MinHash with locality-sensitive hashing (Leskovec, Rajaraman and Ullman, "Mining of Massive
    Datasets", chapter 3; 50 bands of 5 permutations: a pair at the default threshold 0.7 is missed with probability
    1e-4, and lower thresholds get more bands of fewer, so that no more is missed there). Those whose sketches agree
    by 0.2 less than the threshold are dropped (five standard deviations: one in a million at the threshold); the rest
    is confirmed by the exact Jaccard similarity of the shingle sets. Shingles are character 5-grams of the lower-cased
    words in Unicode NFKC, so that the short sentences of ADE are compared as well as abstracts.

    A text is read once for its sketch, and again if it becomes a candidate. Memory is 500 bytes a text.

    Args:
        texts: The texts.
        owners: The document that each of them belongs to.
        threshold: Jaccard similarity from which a pair is reported.
        seed: Seed of the permutations.
        sides: A number below 256 for each text; pairs of one number are left out. None: no pair is.

    Yields:
        (index, index, Jaccard similarity), left index first, in order.
    """
    sketches = _sketches(texts, len(texts), threshold, seed)
    yield from _confirmed(sketches, texts, owners, threshold, sides)


def _confirmed(
    sketches: _Sketches,
    texts: Sequence[str],
    owners: Sequence[Hashable],
    threshold: float,
    sides: Sequence[int] | None,
) -> Iterator[tuple[int, int, float]]:
    # Shingles are made again for the few candidates: kept, those of 100,000 documents would take gigabytes.
    shingles = lru_cache(maxsize=1024)(lambda position: frozenset(_shingles(_words(texts[position]))))
    for left, right in _candidates(sketches, threshold, None if sides is None else numpy.array(sides, numpy.uint8)):
        if owners[left] != owners[right]:
            similarity = _jaccard(shingles(left), shingles(right))
            if similarity >= threshold:
                yield left, right, similarity


def contained(
    texts: Sequence[str], pmids: Sequence[str], whole: Collection[int] | None = None, sides: Sequence[int] | None = None
) -> Iterator[tuple[int, int]]:
    """Find texts that stand within longer ones, as a sentence does in its abstract: word for word, in one run.

    Two texts with PubMed ids are left out, as the ids tell whether they are of one abstract; where all have one,
    nothing is read. Else every text is read twice, and the first ten words of each are kept.

    Args:
        texts: The texts; what has fewer than ten words is not looked for.
        pmids: The PubMed id of each, or any other name for its document that is no number.
        whole: Numbers of the texts that are looked for; None: of all.
        sides: A number for each text; pairs of one number are left out. None: no pair is.

    Yields:
        (number of the text that stands in the other, number of the other).
    """
    known = [pmid.isascii() and pmid.isdigit() for pmid in pmids]
    if all(known):
        return
    wanted: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        if (whole is None or number in whole) and (first := next(_runs(_words(text)), None)):
            wanted.setdefault(first, []).append(number)
    words_of = lru_cache(maxsize=1024)(lambda number: _words(texts[number]))
    for number, text in enumerate(texts if wanted else ()):
        words = _words(text)
        hits = {hit for run in _runs(words) for hit in wanted.get(run, ()) if not (known[hit] and known[number])}
        for hit in sorted(hits):
            apart = sides is None or sides[hit] != sides[number]
            if apart and len(words_of(hit)) < len(words) and f" {words_of(hit)} " in f" {words} ":
                yield hit, number


def _runs(words: str) -> Iterator[str]:
    """Yield every ten words in a row."""
    spaces = [space.start() for space in re.finditer(" ", words)]
    begins, ends = [0, *(space + 1 for space in spaces)], [*spaces, len(words)]
    return (words[begin:end] for begin, end in zip(begins, ends[_CONTAINED_WORDS - 1 :], strict=False))


@dataclass(frozen=True, slots=True)
class _Sketches:
    """MinHash sketches of n texts, as far as candidates need them.

    Attributes:
        permutations: Their length.
        bands: Hashes of the bands (bands, n).
        parities: The lowest bit of every number of the sketch, 64 in one (words, n).
        bytes: The lowest byte of every number (n, permutations).
        digests: What tells the words of the texts apart (n, 16).
    """

    permutations: int
    bands: Array
    parities: Array
    bytes: Array
    digests: Array


def _sketches(texts: Iterable[str], count: int, threshold: float, seed: int) -> _Sketches:
    rows = _rows_of_a_band(threshold)
    permutations = _PERMUTATIONS // rows * rows
    bands, words = permutations // rows, -(-permutations // 64)
    made = _Sketches(
        permutations,
        numpy.empty((bands, count), numpy.uint32),
        numpy.empty((words, count), numpy.uint64),
        numpy.empty((count, permutations), numpy.uint8),
        numpy.empty((count, 16), numpy.uint8),
    )
    begin = 0
    for hashes, parities, lowest, digests in mapped(partial(_sketcher, permutations, rows, seed), texts, count):
        part = slice(begin, begin := begin + len(lowest))
        made.bands[:, part], made.parities[:, part] = hashes.T, parities.T
        made.bytes[part], made.digests[part] = lowest, digests
    return made


def _sketcher(permutations: int, rows: int, seed: int) -> Callable[[list[str]], tuple[Array, ...]]:
    """Return a function from texts to their part of :class:`_Sketches`, text by text."""
    from rensa import RMinHash

    factors = numpy.random.default_rng(seed).integers(2**63, size=rows, dtype=numpy.uint64) * 2 + 1

    def sketched(texts: list[str]) -> tuple[Array, ...]:
        words = [_words(text) for text in texts]
        # A sketch is a minimum: neither order nor repeated shingles matter.
        matrix = RMinHash.digest_matrix_from_token_sets([_shingles(one) for one in words], permutations, seed)
        sketch = numpy.array(matrix.to_rows(), dtype=numpy.uint32)
        hashes = (sketch.reshape(len(sketch), -1, rows) * factors).sum(axis=2, dtype=numpy.uint64)
        bits: Array = numpy.zeros((len(sketch), -(-permutations // 64) * 64), numpy.uint8)
        bits[:, :permutations] = sketch & 1
        return (
            (hashes >> numpy.uint64(32)).astype(numpy.uint32),
            numpy.packbits(bits, axis=1).view(numpy.uint64),
            (sketch & 0xFF).astype(numpy.uint8),
            numpy.frombuffer(b"".join(map(short_digest, words)), numpy.uint8).reshape(-1, 16),
        )

    return sketched


def _candidates(sketches: _Sketches, threshold: float, sides: Array | None) -> Iterator[tuple[int, int]]:
    """Yield the pairs of equal bands whose sketches agree nearly as often as the threshold, in order.

    Texts made from one set of templates give hundreds of millions of candidates. So the lowest bits of their sketches
    are compared first: those of unequal numbers agree half of the time. Pairs that fall five standard deviations
    short of the threshold's agreement are dropped, and the lowest bytes of the few others are compared.
    """
    agreed = threshold + (1 - threshold) / 2
    spread = (agreed * (1 - agreed) / sketches.permutations) ** 0.5
    most = int(sketches.permutations * (1 - agreed + 5 * spread))
    found = [_alike(band, sketches.parities, most, sides) for band in sketches.bands]
    pairs = numpy.unique(numpy.concatenate(found), axis=0)
    for begin in range(0, len(pairs), _AT_ONCE):
        left, right = pairs[begin : begin + _AT_ONCE].T
        agreement = (sketches.bytes[left] == sketches.bytes[right]).mean(axis=1)
        kept = agreement >= threshold - 0.2
        yield from zip(left[kept].tolist(), right[kept].tolist(), strict=True)


def _alike(band: Array, parities: Array, most: int, sides: Array | None) -> Array:
    """Return the pairs (n, 2), the smaller number first, that agree in a band and differ in no more parities."""
    order = numpy.argsort(band, kind="stable")
    hashes = band[order]
    ends = numpy.asarray(numpy.searchsorted(hashes, hashes, side="right"))
    words = parities[:, order]
    of = None if sides is None else sides[order]
    found: list[Array] = [numpy.empty((0, 2), numpy.int64)]
    left: Array = numpy.arange(len(order))
    distance = 1
    while len(left := left[left + distance < ends[left]]):  # pairs of places in the order, nearest first
        near = left if of is None else left[of[left] != of[left + distance]]
        unlike: Array = numpy.zeros(len(near), numpy.uint16)
        for word in words:
            unlike += numpy.bitwise_count(word[near] ^ word[near + distance])
        near = near[unlike <= most]
        found.append(numpy.stack([order[near], order[near + distance]], axis=1))
        distance += 1
    return numpy.concatenate(found)


def find_leaks(
    splits: Mapping[str, Sequence[Record]],
    pmids: Mapping[str, str],
    *,
    near_duplicate: float,
    seed: int,
    subject: Callable[[Record], str] = lambda record: record["input"],
) -> dict[str, list[dict[str, Any]]]:
    """Look for anything that is in two splits, using nothing but the finished splits.

    Args:
        splits: Split name -> records.
        pmids: Document id -> PubMed id.
        near_duplicate: Jaccard similarity that counts as a leak.
        seed: Seed of the MinHash permutations; with another seed than the split's, this is a second opinion.
        subject: The part of a record that is compared; see :meth:`odin_slm.tasks.Task.subject`.

    Returns:
        ``exact_inputs``, ``pmids`` and ``near_duplicates``: one entry per leak, naming the documents. An undivided
        document that stands within another one is among the latter (``contained``; see :func:`contained`).
    """
    names = list(splits)
    sides = [side for side, name in enumerate(names) for _ in splits[name]]
    documents: list[str] = []
    records = Joined(*splits.values())

    def subjects() -> Iterator[str]:
        for record in records:
            documents.append(record["document_id"])
            yield subject(record)

    sketches = _sketches(subjects(), len(records), near_duplicate, seed)

    def crossing(keys: Sequence[Hashable]) -> list[dict[str, Any]]:
        return [
            {
                "documents": sorted({documents[i] for i in group}),
                "splits": sorted({names[sides[i]] for i in group}),
            }
            for group in _crossing(keys, sides)
        ]

    def leak(left: int, right: int, **found: Any) -> dict[str, Any]:
        splits = [names[sides[left]], names[sides[right]]]
        return {"documents": [documents[left], documents[right]], "splits": splits, **found}

    texts = Mapped(subject, records)
    near = [
        leak(left, right, jaccard=round(similarity, 4))
        for left, right, similarity in _confirmed(sketches, texts, documents, near_duplicate, sides)
    ]
    parts = Counter(documents)
    undivided = {number for number, document in enumerate(documents) if parts[document] == 1}
    within = contained(texts, [pmids[document] for document in documents], undivided, sides)
    near += [leak(left, right, contained=True) for left, right in within]
    return {
        "exact_inputs": crossing([digest.tobytes() for digest in sketches.digests]),
        "pmids": crossing([pmids[document] for document in documents]),
        "near_duplicates": near,
    }


def _crossing(keys: Sequence[Hashable], sides: Sequence[int]) -> Iterable[list[int]]:
    """Return the numbers that have one key, for every key on several sides."""
    side_of = dict(zip(keys, sides, strict=True))
    several = {key for key, side in zip(keys, sides, strict=True) if side_of[key] != side}
    groups: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        if key in several:
            groups.setdefault(key, []).append(position)
    return groups.values()


def _replaced_annotations(
    documents: Sequence[Document],
    texts: Sequence[str],
    placements: Mapping[str, Placement],
    reviewed: Collection[str],
) -> Iterator[str]:
    """Yield the documents whose abstract another corpus annotates too and whose annotation is not used.

    One abstract, one annotation: of whole abstracts with the same PubMed id, the one whose corpus officially puts it
    into the split it landed in is kept, so that official test sets stay complete; then what was reviewed; then
    :data:`PREFERRED_SOURCES`.
    Sentences (ADE) are no whole abstracts: they stay, in the same split. So does a document whose text is another one,
    as where somebody's own numbering looks like PubMed ids.
    """
    numbers = {
        d.id: number for number, d in enumerate(documents) if d.split is not None and placements[d.id].split is not None
    }
    for ids in _by_pmid([documents[number] for number in numbers.values()]).values():
        shared = [documents[numbers[i]] for i in ids]
        if len({document.source for document in shared}) < 2:
            continue
        keep = min(
            shared,
            key=lambda d: (d.split != placements[d.id].split, d.source not in reviewed, *_preference(d.source)),
        )
        kept = frozenset(_shingles(_words(texts[numbers[keep.id]])))
        for document in shared:
            if document.source != keep.source:
                own = frozenset(_shingles(_words(texts[numbers[document.id]])))
                if _jaccard(kept, own) >= _SAME_ABSTRACT:
                    yield document.id


def _preference(source: str) -> tuple[int, str]:
    known = PREFERRED_SOURCES.index(source) if source in PREFERRED_SOURCES else len(PREFERRED_SOURCES)
    return known, source


def _by_pmid(documents: Sequence[Document]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        groups[document.pmid].append(document.id)
    return groups


def _hashed_split(group: str, seed: int, validation_ratio: float, test_ratio: float) -> str:
    position = _position(f"{seed}:{group}")
    train, validation, test = SPLITS
    if position < test_ratio:
        return test
    return validation if position < test_ratio + validation_ratio else train


def _fold_split(name: str, seed: int, validation_ratio: float, folds: Folds) -> str:
    train, validation, test = SPLITS
    if int(_position(f"{seed}:{name}") * folds.count) == folds.test:
        return test
    return validation if _position(f"{seed}:validation:{name}") < validation_ratio else train


def _position(text: str) -> float:
    """Return a number from 0 to below 1 that a text always has."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def _rows_of_a_band(threshold: float) -> int:
    """Return how many permutations make a band: the most with which pairs at the threshold are hardly missed."""
    return next((n for n in (5, 4, 3, 2) if (1 - threshold**n) ** (_PERMUTATIONS // n) <= _MISSED), 1)


def _words(text: str) -> str:
    # corpora write one letter as one character or as two, and take ligatures over from print
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _shingles(words: str) -> list[str]:
    """Return every five characters in a row, which numpy cuts in a third of Python's time."""
    if len(words) < 6:
        return [words]
    letters = words.encode("utf-32-le", "surrogatepass")
    return numpy.ndarray((len(words) - 4,), "<U5", letters, strides=(4,)).tolist()


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)
