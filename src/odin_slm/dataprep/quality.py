"""Quality of the combined dataset: checks with severities, a score, a grade, and a decision.

The decision is not the score: one failed critical check refuses the data however high the rest scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from odin_slm.core.record import Record
from odin_slm.core.redaction import text_problems
from odin_slm.tasks import Task

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
_Name = Annotated[str, StringConstraints(pattern=r"^\S+$")]


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


def _checks(
    splits: Mapping[str, Sequence[Record]], leaks: Mapping[str, Sequence[Any]], task: Task, limits: Profile
) -> Iterator[Check]:
    records = [record for name in splits for record in splits[name]]

    def broken(rule: Callable[[Record], bool]) -> tuple[str, ...]:
        return tuple(record["id"] for record in records if not rule(record))

    def rows(name: str, severity: str, rule: Callable[[Record], bool], fix: str, tolerated: float = 0.0) -> Check:
        return Check(name, severity, broken(rule), len(records), tolerated, fix)

    empty = tuple(name for name in splits if not splits[name])
    untrained = tuple(name for name in empty if name == "train")
    yield Check("training is not empty", "critical", untrained, 1, 0.0, "Change the ratios or add documents.")
    # Without them nothing can be measured, and the data can still be published.
    unmeasured = tuple(name for name in empty if name != "train")
    yield Check("validation and test are not empty", "high", unmeasured, 2, 0.0, "Change the ratios or add documents.")
    leaking = tuple("+".join(leak["documents"]) for kind in leaks.values() for leak in kind)
    yield Check(
        "no document lies in two splits",
        "critical",
        leaking,
        max(len(records), len(leaking)),
        0.0,
        "Lower combination.near_duplicate.",
    )
    repeated = tuple(key for key, n in Counter(record["id"] for record in records).items() if n > 1)
    yield Check("record ids are unique", "critical", repeated, len(records), 0.0, "Mend the parser that numbers them.")
    for check in task.checks():
        tolerated = getattr(limits, check.limit) if check.limit else 0.0
        yield rows(check.name, check.severity, check.holds, check.fix, tolerated)
    yield rows(
        "fields are filled and hold text, ids are names",
        "high",
        _well_shaped,
        "Fill the fields; control characters and U+FFFD come from a conversion: convert the corpus again.",
    )
    yield rows(
        "no record holds a secret",
        "critical",
        lambda record: not any(text_problems("", record["input"] + record["output"])),
        "Mask it in the corpus.",
    )
    for name, part in splits.items():
        inputs = Counter(" ".join(record["input"].casefold().split()) for record in part)
        copies = tuple(r["id"] for r in part if inputs[" ".join(r["input"].casefold().split())] > 1)
        yield Check(
            f"hardly any record of {name} repeats an input",
            "high",
            copies,
            max(1, len(part)),
            limits.repeated,
            "Set combination.drop_duplicates=true.",
        )
    wanted = sorted({label for source in {r["source"] for r in records} for label in task.expected_labels(source)})
    found = {
        name: {label for r in part for labels in task.labels(r["output"]).values() for label in labels}
        for name, part in splits.items()
    }
    lacking = tuple(
        f"{name}: {label}" for name in splits if splits[name] for label in wanted if label not in found[name]
    )
    yield Check(
        "every label occurs in every split",
        "high",
        lacking,
        max(1, len(wanted) * len(splits)),
        0.0,
        "Add documents or move the ratios.",
    )
    yield rows(
        "inputs have at least five words",
        "medium",
        lambda record: len(record["input"].split()) >= 5,
        "Drop the shortest texts.",
        tolerated=limits.short,
    )
