"""Which documents are worth an annotator's time: uncertain ones, different ones, and some by chance.

Uncertainty sampling alone does not always beat random sampling, and picks documents that take longer (Settles,
"Active Learning Literature Survey", 2009, section 6): the shares are parameters.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

REASONS = ("uncertain", "diverse", "random")
"""Why a document is chosen; earlier ones choose first."""


def uncertainty(row: Mapping[str, Any]) -> float:
    """Return the share of a document's items that are expected to be wrong.

    An item is an entity or a relation, and its calibrated confidence is its chance to be right. A malformed line and a
    window whose output was cut off are items that are wrong. A document without items has 0: what a model overlooks, it
    is not in doubt about, which is what the other two shares are for.

    Args:
        row: What the extraction pipeline writes of a document.
    """
    chances = [item["confidence"] or 0.0 for item in (*row["entities"], *row["relations"])]
    chances += [0.0] * (row["malformed_lines"] + sum(not window["finished"] for window in row["windows"]))
    return 1.0 - sum(chances) / len(chances) if chances else 0.0


def shares(count: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Share a number out in proportion to weights, what is left over by the largest remainders."""
    total = sum(weights.values())
    exact = {name: count * weights[name] / total for name in REASONS}
    found = {name: int(value) for name, value in exact.items()}
    for name in sorted(REASONS, key=lambda name: found[name] - exact[name])[: count - sum(found.values())]:
        found[name] += 1
    return found


def choose(
    texts: Sequence[str], uncertainties: Sequence[float], *, count: int, weights: Mapping[str, float], seed: int
) -> list[tuple[int, str]]:
    """Choose documents by a mix.

    Args:
        texts: The candidates.
        uncertainties: :func:`uncertainty` of each.
        count: How many to choose; all of them where there are fewer.
        weights: Weight of each of :data:`REASONS`.
        seed: Seed of what is chosen by chance.

    Returns:
        (index of a text, its reason), the uncertain ones first, the most uncertain ahead. No text is there twice.
    """
    quotas = shares(min(count, len(texts)), weights)
    by_doubt = sorted(range(len(texts)), key=lambda index: (-uncertainties[index], index))
    chosen = by_doubt[: quotas["uncertain"]]
    chosen += farthest(texts, chosen, quotas["diverse"], seed)
    left = sorted(set(range(len(texts))) - set(chosen))
    chosen += random.Random(seed).sample(left, quotas["random"])
    reasons = [name for name in REASONS for _ in range(quotas[name])]
    return list(zip(chosen, reasons, strict=True))


def farthest(texts: Sequence[str], chosen: Sequence[int], count: int, seed: int) -> list[int]:
    """Choose texts that differ most from those chosen before, one after the other.

    This is the greedy k-centre of Sener and Savarese ("Active Learning for Convolutional Neural Networks: A Core-Set
    Approach", 2018), on cosines of tf-idf over character 4-grams, which need no word borders.

    Args:
        texts: The candidates.
        chosen: Indices of those chosen before; without any, the first one is drawn.
        count: How many to choose.
        seed: Seed of that draw.
    """
    import numpy
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not count:
        return []
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), sublinear_tf=True).fit_transform(texts)
    found: list[int] = []
    begin = list(chosen)
    if not begin:
        found = begin = [random.Random(seed).randrange(len(texts))]
    nearest = (vectors @ vectors[begin].T).toarray().max(axis=1)
    nearest[begin] = numpy.inf
    while len(found) < count:
        index = int(nearest.argmin())
        found.append(index)
        nearest = numpy.maximum(nearest, (vectors @ vectors[index].T).toarray().ravel())
        nearest[index] = numpy.inf
    return found
