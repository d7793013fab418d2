"""Which documents may be reviewed: no validation or test document, no near-duplicate of one, and no part of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Any

from odin_slm.core.document import GivenDocument
from odin_slm.core.hashing import sha256_text
from odin_slm.corpora.own.offsets import plain
from odin_slm.dataprep.splitting import contained, near_duplicates

_UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)
_LONGEST = 80
HELD_OUT = ("validation", "test")


def draw(documents: Iterable[GivenDocument], count: int, seed: int) -> tuple[list[GivenDocument], int]:
    """Draw readable documents, without holding all of them.

    Args:
        documents: All of them.
        count: How many to draw; 0 for all.
        seed: Seed of the draw.

    Returns:
        Those drawn, in their order, and how many could not be read.
    """
    unreadable = 0

    def ranked() -> Iterable[tuple[str, int, GivenDocument]]:
        nonlocal unreadable
        for number, document in enumerate(documents):
            if document.error is not None:
                unreadable += 1
                continue
            yield sha256_text(f"{seed}:{document.source}:{document.record}:{document.id}"), number, document

    found = nsmallest(count, ranked()) if count else list(ranked())
    return [document for _, _, document in sorted(found, key=lambda one: one[1])], unreadable


def admit(
    drawn: Sequence[GivenDocument],
    documents: Sequence[Mapping[str, Any]],
    splits: Mapping[str, Mapping[str, Any]],
    *,
    near_duplicate: float,
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Keep the documents that may be reviewed.

    Args:
        drawn: Documents; those of the labelled pool have the ids that they have there.
        documents: All documents of the experiment, as JSON values.
        splits: Document id -> where it lies, as the combination pipeline has placed it.
        near_duplicate: Jaccard similarity from which two texts are near-duplicates.
        seed: Seed of their search.

    Returns:
        Candidates: ``id`` (unique, fit for a file's name), ``source``, ``record``, ``from`` (the document's own id),
        ``pmid`` and official ``split`` of a training document, else None and ``train``, and ``text``; and how many are
        left out, by reason.
    """
    groups = {place["group"] for place in splits.values() if place["split"] in HELD_OUT}
    held_out = [document for document in documents if splits[document["id"]]["group"] in groups]
    named = {document["id"] for document in held_out} | {document["pmid"] for document in held_out}
    known = {document["id"]: document for document in documents}
    left_out = {"held_out": 0, "near_duplicate_of_held_out": 0, "repeated": 0}
    free = [document for document in drawn if document.id not in named]
    left_out["held_out"] = len(drawn) - len(free)
    texts = [*(plain(document.text) for document in free), *(document["text"] for document in held_out)]
    found = near_duplicates(texts, [str(n) for n in range(len(texts))], threshold=near_duplicate, seed=seed)
    pairs = sorted((left, right) for left, right, _ in found)
    pmids = [known[document.id]["pmid"] if document.id in known else "" for document in free]
    pmids += [document["pmid"] for document in held_out]
    within = contained(texts, pmids, sides=[0] * len(free) + [1] * len(held_out))
    pairs += [(min(pair), max(pair)) for pair in within]
    refused = {left: "near_duplicate_of_held_out" for left, right in pairs if left < len(free) <= right}
    for left, right in pairs:
        if right < len(free) and left not in refused:
            refused.setdefault(right, "repeated")
    for reason in refused.values():
        left_out[reason] += 1
    taken: set[str] = set()
    candidates = []
    for index, document in enumerate(free):
        if index not in refused:
            place: dict[str, Any] = {"source": document.source, "record": document.record, "from": document.id}
            labelled = known.get(document.id, {"pmid": None, "split": "train"})
            place |= {"pmid": labelled["pmid"], "split": labelled["split"]}
            candidates.append({"id": _file_name(document.id, taken), **place, "text": texts[index]})
    return candidates, left_out


def _file_name(name: str, taken: set[str]) -> str:
    """Return a name that no other document has, and that every file system takes."""
    short = _UNSAFE.sub("-", name)[:_LONGEST].strip(".-") or "document"
    found, number = short, 1
    while found.casefold() in taken:
        number += 1
        found = f"{short}-{number}"
    taken.add(found.casefold())
    return found
