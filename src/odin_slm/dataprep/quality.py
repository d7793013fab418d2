"""Quality of the combined dataset: checks with severities, a score, a grade, and a decision.

The decision is not the score: one failed critical check refuses the data however high the rest scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from odin_slm.core.processes import mapped
from odin_slm.core.record import Record
from odin_slm.core.redaction import text_problems
from odin_slm.dataprep.cleaning import input_digest
from odin_slm.tasks import Task
from odin_slm.tasks.check import Check as Rule

WEIGHTS = {"critical": 3.0, "high": 2.0, "medium": 1.0}
GRADES = ((95.0, "A"), (85.0, "B"), (70.0, "C"), (50.0, "D"), (0.0, "F"))


@dataclass(frozen=True)
class Profile:
    """How strict the decision is.

    Attributes:
        minimum: Least score that is accepted, 0 to 100.
        repeated: Tolerated share of a split's records whose input repeats.
        short: Tolerated share of inputs with fewer than five words.
        empty: Tolerated share of outputs without entities.
    """

    minimum: float
    repeated: float
    short: float
    empty: float


PROFILES = {
    "exploration": Profile(minimum=50.0, repeated=0.1, short=0.2, empty=0.9),
    "ml-training": Profile(minimum=85.0, repeated=0.01, short=0.05, empty=0.6),
    "publishing": Profile(minimum=95.0, repeated=0.001, short=0.05, empty=0.5),
}

_NAMED = 20

_Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f\ufffd]*$")]
_Name = Annotated[str, StringConstraints(pattern=r"^\S+( \S+)*$")]  # a file's name, and so an id, may hold spaces


@dataclass(frozen=True)
class Check:
    """One rule, applied.

    Attributes:
        name: What must hold.
        severity: A key of :data:`WEIGHTS`.
        failures: Ids of the records (or names of the labels, splits) that break it.
        tolerated: Share of failures that is still a pass.
        total: How many were looked at.
        fix: The way out.
    """

    name: str
    severity: str
    failures: tuple[str, ...]
    total: int
    tolerated: float
    fix: str

    @property
    def share(self) -> float:
        """Share of failures, 0 to 1."""
        return len(self.failures) / self.total if self.total else 1.0

    @property
    def passed(self) -> bool:
        """Whether no more failed than is tolerated."""
        return self.share <= self.tolerated


def assess(
    splits: Mapping[str, Sequence[Record]], leaks: Mapping[str, Sequence[Any]], task: Task, *, profile: str
) -> dict[str, Any]:
    """Apply every check to a combined dataset.

    A check earns its weight times (1 - share of failures), so that worse data never scores higher; the score is the
    earned share of all weights, 0 to 100.

    Args:
        splits: Split name -> records.
        leaks: What :func:`odin_slm.dataprep.splitting.find_leaks` found.
        task: What the records are of; it has rules of its own.
        profile: A key of :data:`PROFILES`.

    Returns:
        ``decision`` (pass or fail), ``score``, ``grade``, ``profile``, ``minimum_score`` and ``checks``, each with its
        severity, its result, how many failed, the first of them by id, and the way out.
    """
    limits = PROFILES[profile]
    checks = list(_checks(splits, leaks, task, limits))
    score = 100 * sum(WEIGHTS[c.severity] * (1 - c.share) for c in checks) / sum(WEIGHTS[c.severity] for c in checks)
    refused = [c.name for c in checks if c.severity == "critical" and not c.passed]
    return {
        "decision": "pass" if not refused and score >= limits.minimum else "fail",
        "score": round(score, 2),
        "grade": next(grade for least, grade in GRADES if score >= least),
        "profile": profile,
        "minimum_score": limits.minimum,
        "failed_critical": refused,
        "checks": [
            {
                "name": c.name,
                "severity": c.severity,
                "passed": c.passed,
                "failed": len(c.failures),
                "of": c.total,
                "tolerated_share": c.tolerated,
                "examples": list(c.failures[:_NAMED]),
                "fix": "" if c.passed else c.fix,
            }
            for c in checks
        ],
    }


class _Row(BaseModel):
    """The shape of a record: every field of :class:`~odin_slm.core.record.Record`, filled, and no other.

    Line breaks and tabs are text; other control characters are damage of a conversion, and so is U+FFFD.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    instruction: _Text
    input: _Text
    output: _Text
    id: _Name
    source: _Name
    document_id: _Name


def _well_shaped(record: Record) -> bool:
    try:
        _Row.model_validate(record)
    except ValidationError:
        return False
    return True


_RULES = (
    Rule(
        "fields are filled and hold text, ids are names",
        "high",
        _well_shaped,
        "Fill the fields; control characters and U+FFFD come from a conversion: convert the corpus again.",
    ),
    Rule(
        "no record holds a secret",
        "critical",
        lambda record: not any(text_problems("", record["input"] + record["output"])),
        "Mask it in the corpus.",
    ),
)
_LONG_ENOUGH = Rule(
    "inputs have at least five words",
    "medium",
    lambda record: len(record["input"].split()) >= 5,
    "Drop the shortest texts.",
    limit="short",
)


class _Seen(NamedTuple):
    """What some records, each with its split, are like.

    Attributes:
        failures: Rule by rule the ids of those that break it.
        ids: Their ids.
        digests: What tells their inputs apart.
        labels: Split and label, of all labels in their outputs.
        sources: Their sources.
    """

    failures: list[list[str]]
    ids: list[str]
    digests: list[bytes]
    labels: set[tuple[str, str]]
    sources: set[str]


def _rules(task: Task) -> tuple[Rule, ...]:
    return (*task.checks(), *_RULES, _LONG_ENOUGH)


def _looker(task: Task) -> Callable[[list[tuple[str, Record]]], _Seen]:
    rules = _rules(task)

    def looked_at(some: list[tuple[str, Record]]) -> _Seen:
        seen = _Seen([[] for _ in rules], [], [], set(), set())
        for name, record in some:  # and not rule by rule: they share what they parse of it
            for rule, failed in zip(rules, seen.failures, strict=True):
                if not rule.holds(record):
                    failed.append(record["id"])
            seen.ids.append(record["id"])
            seen.digests.append(input_digest(record))
            seen.labels.update((name, label) for found in task.labels(record["output"]).values() for label in found)
            seen.sources.add(record["source"])
        return seen

    return looked_at


def _look(splits: Mapping[str, Sequence[Record]], task: Task) -> _Seen:
    """Look at every record once; outputs are parsed in several processes where there are many."""
    rows = ((name, record) for name, records in splits.items() for record in records)
    seen = _Seen([[] for _ in _rules(task)], [], [], set(), set())
    for some in mapped(partial(_looker, task), rows, sum(map(len, splits.values()))):
        for failed, more in zip(seen.failures, some.failures, strict=True):
            failed += more
        seen.ids.extend(some.ids)
        seen.digests.extend(some.digests)
        seen.labels.update(some.labels)
        seen.sources.update(some.sources)
    return seen


def _checks(
    splits: Mapping[str, Sequence[Record]], leaks: Mapping[str, Sequence[Any]], task: Task, limits: Profile
) -> Iterator[Check]:
    seen = _look(splits, task)
    total = len(seen.ids)
    *applied, long_enough = (
        _applied(rule, failed, total, limits) for rule, failed in zip(_rules(task), seen.failures, strict=True)
    )
    yield from _whole_splits(splits)
    leaking = tuple("+".join(leak["documents"]) for kind in leaks.values() for leak in kind)
    looked_at = max(total, len(leaking))
    fix = "Lower combination.near_duplicate."
    yield Check("no document lies in two splits", "critical", leaking, looked_at, 0.0, fix)
    repeated = tuple(key for key, n in Counter(seen.ids).items() if n > 1)
    yield Check("record ids are unique", "critical", repeated, total, 0.0, "Mend the parser that numbers them.")
    yield from applied
    end = 0
    for name, records in splits.items():
        part = slice(end, end := end + len(records))
        yield _repeats(name, seen.ids[part], seen.digests[part], limits)
    yield _labels(splits, seen, task)
    yield long_enough


def _applied(rule: Rule, failures: Sequence[str], total: int, limits: Profile) -> Check:
    tolerated = getattr(limits, rule.limit) if rule.limit else 0.0
    return Check(rule.name, rule.severity, tuple(failures), total, tolerated, rule.fix)


def _whole_splits(splits: Mapping[str, Sequence[Record]]) -> Iterator[Check]:
    empty = [name for name in splits if not splits[name]]
    untrained = tuple(name for name in empty if name == "train")
    yield Check("training is not empty", "critical", untrained, 1, 0.0, "Change the ratios or add documents.")
    # Without them nothing can be measured, and the data can still be published.
    unmeasured = tuple(name for name in empty if name != "train")
    yield Check("validation and test are not empty", "high", unmeasured, 2, 0.0, "Change the ratios or add documents.")


def _repeats(name: str, ids: Sequence[str], inputs: Sequence[bytes], limits: Profile) -> Check:
    times = Counter(inputs)
    copies = tuple(key for key, digest in zip(ids, inputs, strict=True) if times[digest] > 1)
    fix = "Set combination.drop_duplicates=true."
    title = f"hardly any record of {name} repeats an input"
    return Check(title, "high", copies, max(1, len(ids)), limits.repeated, fix)


def _labels(splits: Mapping[str, Sequence[Record]], seen: _Seen, task: Task) -> Check:
    expected: set[str] = set()
    for source in seen.sources.intersection(task.sources):
        expected.update(*task.describe_source(source).values())
    labels = sorted(expected)
    lacking = [
        f"{name}: {label}" for name in splits for label in labels if splits[name] and (name, label) not in seen.labels
    ]
    total = max(1, len(expected) * len(splits))
    fix = "Add documents or move the ratios."
    return Check("every label occurs in every split", "high", tuple(lacking), total, 0.0, fix)
