"""What a training learns from: the records of a pass, as the task has them written, and the exercises made of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import WrongParameterError
from odin_slm.core.record import Record
from odin_slm.models.tokens import RecordCounter
from odin_slm.tasks import Task

logger = logging.getLogger(__name__)


def examples_of(
    train: Sequence[Record], task: Task, lengths: RecordCounter, params: TrainingParams
) -> tuple[list[Record], list[Record]]:
    """Return the records of a pass in the form that is taught, and the task's exercises.

    Args:
        train: Training records.
        task: What is taught.
        lengths: Counts the tokens of records.
        params: Repeats, swapped names and the longest example.

    Raises:
        WrongParameterError: ``params.repeats`` names what no record is of or lists, or ``params.swap_names`` asks for
            other names where the task's texts hold none.
    """
    taught = [task.taught(record) for record in repeated(train, task, lengths, params)]
    return taught, _exercises(task, train, lengths, params)


def repeated(train: Sequence[Record], task: Task, lengths: RecordCounter, params: TrainingParams) -> list[Record]:
    """Return training records as often as a pass has them, with other names in the copies where it is asked for."""
    kinds = [_kinds(record, task) for record in train] if params.repeats else [frozenset[str]()] * len(train)
    known = frozenset[str]().union(*kinds)
    if unknown := sorted(params.repeats.keys() - known):
        raise WrongParameterError(
            f"no training record is of the source {unknown[0]!r}, or lists something of this type; there are "
            f"{', '.join(sorted(known))}.",
            where="training.repeats",
            fix="Name one of them.",
        )
    times = [max((params.repeats.get(kind, 1) for kind in each), default=1) for each in kinds]
    copies = [(record, number) for record, often in zip(train, times, strict=True) for number in range(often)]
    if len(copies) > len(train):
        logger.info("%d records in a pass: %d training records, some of them repeated.", len(copies), len(train))
    if not params.swap_names:
        return [record for record, _ in copies]
    rename = task.renaming(train, params.swap_names, params.seed)
    if rename is None:
        raise WrongParameterError(
            f"the texts of the task {task.name} hold no names that could be swapped.",
            where="training.swap_names",
            fix="Set it to 0.",
        )
    given = [rename(record) if number else record for record, number in copies]
    tokens = lengths([task.taught(record) for record in given])
    fitting = [
        made if length <= params.max_seq_length else record
        for made, length, (record, _) in zip(given, tokens, copies, strict=True)
    ]
    changed = sum(made is not record for made, (record, _) in zip(fitting, copies, strict=True))
    logger.info("%d of %d copies have other names.", changed, len(copies) - len(train))
    return fitting


def _kinds(record: Record, task: Task) -> frozenset[str]:
    """Return what a record may be repeated for: its source, and the types that its output lists."""
    return frozenset([record["source"], *(kind for kinds in task.labels(record["output"]).values() for kind in kinds)])


def _exercises(task: Task, train: Sequence[Record], lengths: RecordCounter, params: TrainingParams) -> list[Record]:
    """Return what the task makes of training records, to be learned beside them."""

    def fits(record: Record) -> bool:
        return lengths([record])[0] <= params.max_seq_length

    exercises = [one for record in train for one in task.exercises(record, fits, params.seed)]
    if exercises:
        logger.info("%d training records, and %d exercises made of them.", len(train), len(exercises))
    return exercises
