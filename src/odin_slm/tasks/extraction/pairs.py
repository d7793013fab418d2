"""Relations judged pair by pair, after the entities that an output lists.

A list of relations ends where the model ends it. Here every pair of listed entities that may be related is asked for
instead. A model that was trained on lists alone is asked how likely the pair's line is the first one of the list,
compared with the other lines of its head and with ``None``. A model that was taught to judge (:func:`exercise`) is
asked for ``yes`` or ``no`` behind the pair. What counts as related is a threshold per relation type, fitted on
validation records for the F1 of relations, and stored under ``pairs`` in the calibrator.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from odin_slm.core.folding import fold
from odin_slm.core.record import Record
from odin_slm.tasks.extraction.format import (
    NOTHING,
    RELATIONS_HEADER,
    Entity,
    Extraction,
    RelationTriple,
    parse,
    render,
)
from odin_slm.tasks.extraction.schema import MEDICAL, Types

KEY = "pairs"
"""Where a calibrator says how relations are found."""
MODES = ("list", "pairs", "both")
"""As the model lists them; judged pairs in their place; listed relations and judged pairs."""
FEWEST = 20
"""Gold relations among the judged pairs, below which no threshold is fitted."""
PAIRS_HEADER = "### Pairs:"
"""What stands in the place of the list's heading where pairs are asked about; no output that is kept holds it."""
_HEADING = f"\n\n{RELATIONS_HEADER}\n"
_YES, _NO = " yes", " no"
_ROUNDS = 10

Key = tuple[str, ...]
"""What a relation says, as ``exact`` compares it (:attr:`RelationTriple.key`)."""
Scored = tuple[Key, float, bool, bool]
"""A judged pair: what it says, its score, whether it is listed, whether it is right."""


@dataclass(frozen=True)
class Judge:
    """How relations are found.

    Attributes:
        mode: One of :data:`MODES`.
        thresholds: Relation type -> score from which a pair is related; None for never.
    """

    mode: str = "list"
    thresholds: tuple[tuple[str, float | None], ...] = ()

    @classmethod
    def of(cls, calibrator: Mapping[str, Any] | None) -> Judge | None:
        """Return a calibrator's judge; None where it has none."""
        found = (calibrator or {}).get(KEY)
        return cls(found["mode"], tuple(sorted(found["thresholds"].items()))) if found else None

    def accepts(self, triple: RelationTriple, score: float) -> bool:
        """Tell whether a pair is related."""
        threshold = dict(self.thresholds).get(triple.type)
        return threshold is not None and score >= threshold


def candidates(triples: Iterable[tuple[Sequence[str], str, Sequence[str]]]) -> list[RelationTriple]:
    """Return every pair once, whatever the case of its names.

    Args:
        triples: Heads, relation type and tails such that every head may go with every tail.
    """
    found: dict[Key, RelationTriple] = {}
    for heads, relation, tails in triples:
        for triple in (RelationTriple(head, relation, tail) for head in heads for tail in tails):
            found.setdefault(triple.key, triple)
    return list(found.values())


def outputs(entities: Sequence[Entity], pairs: Sequence[RelationTriple]) -> list[str]:
    """Return what is weighed: for every pair the output that lists it alone, and last the one without relations."""
    return [render(Extraction(tuple(entities), relations)) for relations in (*((pair,) for pair in pairs), ())]


def questions(entities: Sequence[Entity], pairs: Sequence[RelationTriple]) -> list[str]:
    """Return what is weighed of a model that was taught to judge: for every pair its line with yes, and with no."""
    begin = _begin(entities)
    return [f"{begin}{line_of(pair)}:{answer}" for pair in pairs for answer in (_YES, _NO)]


def answers(log_shares: Sequence[float]) -> list[float]:
    """Return the score of every pair: the log-probability of yes, given that the answer is yes or no.

    Args:
        log_shares: Log-probability of every output of :func:`questions` among them.
    """
    both = zip(log_shares[::2], log_shares[1::2], strict=True)
    return [-math.log1p(math.exp(min(no - yes, 700.0))) if yes > -math.inf else -math.inf for yes, no in both]


def exercise(
    record: Record,
    entities: Sequence[Entity],
    related: Sequence[RelationTriple],
    pairs: Sequence[RelationTriple],
    most: int,
    seed: int,
    fits: Callable[[Record], bool],
) -> Record | None:
    """Return a training example that asks whether pairs of a record's entities are related.

    There is none where all pairs are: such a record says nothing of what an unrelated pair is like. Of more pairs than
    ``most``, half are related ones, where there are enough of either, drawn at random. Fewer are asked about where the
    example is too long. Their order is random, so that it says nothing. Only the answers carry loss: what a model
    lists, and how it goes on after the entities, stays as the records teach it.

    Args:
        record: The record.
        entities: The entities that it lists.
        related: The relations that it lists.
        pairs: All pairs that may be related.
        most: Pairs to ask about, at most.
        seed: Seed of the choice, together with the record's id.
        fits: Whether an example is short enough.

    Returns:
        The example; None where there is none to ask, or none that fits.
    """
    draw = random.Random(f"{seed}/{record['id']}")
    known = {one.key for one in related}
    right = draw.sample(found := [pair for pair in pairs if pair.key in known], len(found))
    wrong = draw.sample(found := [pair for pair in pairs if pair.key not in known], len(found))
    while wrong and most:
        few = right[: max(most // 2, most - len(wrong))]
        asked = few + wrong[: most - len(few)]
        draw.shuffle(asked)
        output, learned = _begin(entities), []
        for pair in asked:
            output += f"{line_of(pair)}:"
            answer = _YES if pair.key in known else _NO
            learned.append([len(output), len(output) + len(answer)])
            output += f"{answer}\n"
        example = Record({**record, "output": output.rstrip("\n"), "learned": learned})
        if asked and fits(example):
            return example
        most = min(most, len(asked)) // 2
    return None


def _begin(entities: Sequence[Entity]) -> str:
    listed = render(Extraction(tuple(entities))).partition(_HEADING)[0]
    return f"{listed}\n\n{PAIRS_HEADER}\n"


def scores(pairs: Sequence[RelationTriple], log_shares: Sequence[float]) -> list[float]:
    """Return the score of every pair: the log-probability of its line, given that its head or nothing is related.

    The first line names the head that the text names first, so that lines of other heads are left out of account.

    Args:
        pairs: The pairs.
        log_shares: Log-probability of every output of :func:`outputs` among them.
    """
    weights = [math.exp(share) for share in log_shares]
    of_head: dict[str, float] = {}
    for pair, weight in zip(pairs, weights, strict=False):
        of_head[fold(pair.head)] = of_head.get(fold(pair.head), weights[-1]) + weight
    return [
        min(0.0, share - math.log(total)) if (total := of_head[fold(pair.head)]) else -math.inf
        for pair, share in zip(pairs, log_shares, strict=False)
    ]


def judged(
    output: str,
    lines: Sequence[float | None],
    pairs: Sequence[RelationTriple],
    pair_scores: Sequence[float],
    judge: Judge,
    types: Types = MEDICAL,
) -> tuple[str, tuple[float | None, ...]]:
    """Return an output with the relations that a judge finds, and the log-probability of every line.

    The entities stay as they are. What is listed and judged comes first, in the order of the list; a relation's
    log-probability is its score.

    Args:
        output: What the model wrote.
        lines: Log-probability of every line.
        pairs: The pairs that may be related.
        pair_scores: Their scores.
        judge: Which of them are.
        types: The types that the output may name.
    """
    begin, heading, _ = output.partition(_HEADING)
    if judge.mode == "list" or not heading:
        return output, tuple(lines)
    found = _related(parse(output, types).extraction.relations, list(zip(pairs, pair_scores, strict=True)), judge)
    relations = render(Extraction(relations=tuple(pair for pair, _ in found))).partition(_HEADING)[2]
    scored: list[float | None] = [score for _, score in found]
    return f"{begin}{heading}{relations}", (*lines[: begin.count("\n") + 3], *(scored or [None]))


def _related(
    listed: Iterable[RelationTriple], scored: Sequence[tuple[RelationTriple, float]], judge: Judge
) -> list[tuple[RelationTriple, float]]:
    """Return the pairs that are related, with their scores: what is listed as well comes first."""
    score = {pair.key: (pair, value) for pair, value in scored}
    kept = [name for name in dict.fromkeys(one.key for one in listed) if name in score] if judge.mode == "both" else []
    known = set(kept)
    kept += [name for name, (pair, value) in score.items() if name not in known and judge.accepts(pair, value)]
    return [score[name] for name in kept]


def with_judged(row: Mapping[str, Any], fitted: Mapping[str, Any], types: Types = MEDICAL) -> dict[str, Any]:
    """Return a row of :func:`fit` whose ``relations`` are those that its result finds."""
    if fitted["mode"] == "list":
        return dict(row)
    listed = parse(row["prediction"], types).extraction.relations
    scored = [(_triple(line, types), score) for line, score in row.get("weighed", ())]
    found = _related(listed, scored, Judge(fitted["mode"], tuple(fitted["thresholds"].items())))
    relations = [
        {"head": pair.head, "type": pair.type, "tail": pair.tail, "log_probability": round(score, 4)}
        for pair, score in found
    ]
    return {**row, "relations": relations}


def fit(rows: Sequence[Mapping[str, Any]], mode: str, types: Types = MEDICAL) -> dict[str, Any]:
    """Fit the thresholds on predictions for validation records.

    Args:
        rows: Rows as the evaluation pipeline writes them, decoded as lists, with ``weighed``: line and score of every
            pair.
        mode: One of :data:`MODES`.
        types: The types that outputs may name.

    Returns:
        ``mode``, ``thresholds`` (by relation type, None for never), ``records``, ``pairs`` (how many were judged),
        ``f1`` of relations on these records: ``list``, and with the fitted thresholds ``pairs`` and ``both``; ``why``
        nothing was fitted, with which ``mode`` is ``list``.
    """
    found = [scored for row in rows for scored in _scored(row, types)]
    golds = [_keys(row["gold"], types) for row in rows]
    gold = sum(map(len, golds))
    lists = [_keys(row["prediction"], types) for row in rows]
    right = sum(len(one & other) for one, other in zip(lists, golds, strict=True))
    base = _f1(right, sum(map(len, lists)), gold)
    positives = sum(scored[3] for scored in found)
    if positives < FEWEST:
        why = f"{positives} of the pairs in {len(rows)} validation records are related, fewer than {FEWEST}"
        return {"mode": "list", "thresholds": {}, "records": len(rows), "pairs": len(found), "f1": {}, "why": why}
    fitted = {way: _thresholds(found, gold, way == "both", types) for way in ("pairs", "both")}
    return {
        "mode": mode,
        "thresholds": fitted["both" if mode == "both" else "pairs"][0],
        "records": len(rows),
        "pairs": len(found),
        "f1": {name: round(value, 4) for name, value in {"list": base, **{w: f[1] for w, f in fitted.items()}}.items()},
        "why": "",
    }


def _thresholds(found: Sequence[Scored], gold: int, both: bool, types: Types) -> tuple[dict[str, float | None], float]:
    """Return the thresholds of the highest micro F1, and this F1: one type after the other, given the others."""
    choices = {name: _choices([one for one in found if one[0][1] == name], both) for name in types.relations}
    chosen = {name: options[0] for name, options in choices.items()}
    for _ in range(_ROUNDS):
        before = dict(chosen)
        for name, options in choices.items():
            others = [option for other, option in chosen.items() if other != name]
            right, listed = sum(one.right for one in others), sum(one.listed for one in others)
            chosen[name] = max(options, key=lambda one: _f1(right + one.right, listed + one.listed, gold))
        if chosen == before:
            break
    right, listed = sum(one.right for one in chosen.values()), sum(one.listed for one in chosen.values())
    return {name: option.threshold for name, option in chosen.items()}, _f1(right, listed, gold)


class _Choice(NamedTuple):
    """A threshold, how many relations are right with it, and how many there are."""

    threshold: float | None
    right: int
    listed: int


def _choices(found: Sequence[Scored], both: bool) -> list[_Choice]:
    """Return every threshold that parts the pairs of one type, with what it accepts."""
    kept = [right for _, _, listed, right in found if listed] if both else []
    right, count = sum(kept), len(kept)
    options = [_Choice(None, right, count)]
    left = sorted(((score, good) for _, score, listed, good in found if not (both and listed)), reverse=True)
    for place, (score, good) in enumerate(left, start=1):
        right, count = right + good, count + 1
        if place == len(left):
            options.append(_Choice(round(score - 1e-6, 6), right, count))
        elif left[place][0] < score:  # half-way, so that rounding moves nothing across
            options.append(_Choice((score + left[place][0]) / 2, right, count))
    return options


def _scored(row: Mapping[str, Any], types: Types) -> list[Scored]:
    gold, listed = _keys(row["gold"], types), _keys(row["prediction"], types)
    found = []
    for line, score in row.get("weighed", ()):
        name = _triple(line, types).key
        found.append((name, score, name in listed, name in gold))
    return found


def _keys(output: str, types: Types) -> set[Key]:
    return set(parse(output, types).extraction.keys("relation"))


def _triple(line: str, types: Types) -> RelationTriple:
    (triple,) = parse(f"{render(Extraction()).removesuffix(NOTHING)}1. {line}", types).extraction.relations
    return triple


def line_of(triple: RelationTriple) -> str:
    """Return a relation's line without its number."""
    return render(Extraction(relations=(triple,))).rpartition("\n")[2].removeprefix("1. ")


def _f1(right: int, listed: int, gold: int) -> float:
    return 2 * right / (listed + gold) if listed + gold else 0.0
