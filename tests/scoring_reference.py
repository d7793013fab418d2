"""Every scoring mode written out by its definition, example by example, without the project's parser and scorer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

Item = tuple[str, ...]
Sides = tuple[set[Item], set[Item]]
"""(predicted, gold)"""
Scored = dict[str, Any]

CONDITIONS = ("Disease", "Symptom")
FITTING = {
    "causes": {("Drug", c) for c in CONDITIONS},
    "treats": {("Drug", c) for c in CONDITIONS},
    "associated_with": {("Drug", c) for c in (*CONDITIONS, "Drug")},
    "interacts_with": {("Drug", "Drug")},
}


def norm(text: str) -> str:
    return " ".join(text.lower().split())


def listed(text: str) -> tuple[list[Item], list[Item]]:
    """Read an output line by line: entities (type, text), relations (head, type, tail), in order."""
    entities: list[Item] = []
    relations: list[Item] = []
    section = ""
    for line in text.split("\n"):
        if line.startswith("### "):
            section = line
        elif section == "### Entities:" and ". [" in line:
            kind, surface = line.split(". [", 1)[1].split("] ", 1)
            entities.append((kind, norm(surface)))
        elif section == "### Relations:" and " --[" in line:
            head, rest = line.split(". ", 1)[1].split(" --[", 1)
            kind, tail = rest.split("]--> ", 1)
            relations.append((norm(head), kind, norm(tail)))
    return entities, relations


def exact(row: dict[str, Any]) -> tuple[Sides, Sides]:
    (found_e, found_r), (gold_e, gold_r) = listed(row["prediction"]), listed(row["gold"])
    return (set(found_e), set(gold_e)), (set(found_r), set(gold_r))


def with_types(entities: list[Item], relations: list[Item]) -> set[Item]:
    typed = set()
    for head, kind, tail in relations:
        heads = [t for t, text in entities if text == head] or ["none"]
        tails = [t for t, text in entities if text == tail] or ["none"]
        pairs = [(h, t) for h in heads for t in tails]
        best = [pair for pair in pairs if pair in FITTING[kind]] or pairs
        typed.add((head, kind, tail, *best[0]))
    return typed


def strict(row: dict[str, Any]) -> Sides:
    return with_types(*listed(row["prediction"])), with_types(*listed(row["gold"]))


def boundaries(row: dict[str, Any]) -> Sides:
    return tuple({("", text) for _, text in side} for side in exact(row)[0])  # type: ignore[return-value]


def collapsed(row: dict[str, Any]) -> tuple[Sides, Sides]:
    entities, relations = [], []
    for field in ("prediction", "gold"):
        found = [("Disease" if kind == "Symptom" else kind, text) for kind, text in listed(row[field])[0]]
        entities.append(set(found))
        relations.append(with_types(found, listed(row[field])[1]))
    return (entities[0], entities[1]), (relations[0], relations[1])


def any_mention(row: dict[str, Any]) -> tuple[Sides, Sides]:
    forms = {norm(name): [norm(o) for o in others] for name, others in row["surface_forms"].items()}

    def names(text: str) -> list[str]:
        standing = [name for name, others in forms.items() if text in others]
        return ([text, *standing] if text in forms and text not in standing else standing) or [text]

    def concepts(item: Item, gold: set[Item]) -> set[Item]:
        if len(item) == 2:
            meant = [(item[0], name) for name in names(item[1])]
        else:
            meant = [(h, item[1], t) for h in names(item[0]) for t in names(item[2])]
        return {one for one in meant if one in gold} or {meant[0]}

    sides = []
    for predicted, gold in exact(row):
        meant = {one for item in gold for one in concepts(item, gold)}
        sides.append(({one for item in predicted for one in concepts(item, meant)}, meant))
    return sides[0], sides[1]


def overlap(one: str, other: str) -> float:
    if one == other:
        return 1.0
    mine, theirs = set(re.findall(r"\w+", one)), set(re.findall(r"\w+", other))
    return len(mine & theirs) / len(mine | theirs) * 0.99 if mine & theirs else 0.0


def likeness(predicted: Item, gold: Item) -> float:
    if len(predicted) == 2:
        return overlap(predicted[1], gold[1])
    head, tail = overlap(predicted[0], gold[0]), overlap(predicted[2], gold[2])
    return (head + tail) / 2 if head and tail and predicted[1] == gold[1] else 0.0


def partial_counts(predicted: set[Item], gold: set[Item]) -> tuple[float, float, float]:
    left, missed, points = sorted(predicted), sorted(gold), 0.0
    while True:
        best = max(
            ((likeness(p, g), p, g) for p in left for g in missed), key=lambda c: c[0], default=(0.0, None, None)
        )
        if not best[0]:
            return points, len(predicted) - points, len(gold) - points
        points += 1.0 if best[0] == 1.0 else 0.5
        left.remove(best[1])  # type: ignore[arg-type]
        missed.remove(best[2])  # type: ignore[arg-type]


def exact_counts(predicted: set[Item], gold: set[Item]) -> tuple[float, float, float]:
    return len(predicted & gold), len(predicted - gold), len(gold - predicted)


def prf(tp: float, fp: float, fn: float) -> tuple[float, float, float]:
    p = tp / (tp + fp) if tp + fp else 0.0
    r = tp / (tp + fn) if tp + fn else 0.0
    return p, r, 2 * p * r / (p + r) if p + r else 0.0


def micro(counts: Iterable[tuple[float, float, float]]) -> dict[str, float]:
    tp, fp, fn = (sum(column) for column in zip(*counts, strict=True))
    return dict(zip(("precision", "recall", "f1"), prf(tp, fp, fn), strict=True)) | {"tp": tp, "fp": fp, "fn": fn}


def macro(counts: Iterable[tuple[float, float, float]]) -> dict[str, float]:
    each = [prf(*count) if any(count) else (1.0, 1.0, 1.0) for count in counts]
    return {n: sum(c) / len(each) for n, c in zip(("precision", "recall", "f1"), zip(*each, strict=True), strict=True)}


def block(
    sides: list[Sides], types: Iterable[str], count: Callable[[set[Item], set[Item]], tuple[float, float, float]]
) -> Scored:
    """Score one mode and kind; the type of an entity is its first part, of a relation its second."""
    counts = [count(*pair) for pair in sides]
    by_type = {}
    for name in types:
        own = [[{i for i in side if i[len(i) > 2] == name} for side in pair] for pair in sides]
        if any(predicted or gold for predicted, gold in own):
            by_type[name] = micro(count(*pair) for pair in own)
    return {"micro": micro(counts), "macro": macro(counts), "by_type": by_type}


def modes(rows: list[dict[str, Any]], entity_types: Iterable[str], relation_types: Iterable[str]) -> dict[str, Scored]:
    """Return mode -> kind -> micro, macro and by_type."""
    types = {"entity_metrics": tuple(entity_types), "relation_metrics": tuple(relation_types)}
    both = {"exact": exact, "collapsed": collapsed, "any_mention": any_mention}
    found: dict[str, Scored] = {
        name: {
            kind: block([view(row)[place] for row in rows], types[kind], exact_counts)
            for place, kind in enumerate(types)
        }
        for name, view in both.items()
    }
    found["partial"] = {
        kind: block([exact(row)[place] for row in rows], types[kind], partial_counts)
        for place, kind in enumerate(types)
    }
    found["strict"] = {
        "relation_metrics": block([strict(row) for row in rows], types["relation_metrics"], exact_counts)
    }
    found["boundaries"] = {"entity_metrics": block([boundaries(row) for row in rows], (), exact_counts)}
    return found
