"""The task ``spelling``: learn to spell the tokens of a vocabulary, be asked about the letters of unseen words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from odin_slm.core.document import Document
from odin_slm.core.errors import WrongParameterError
from odin_slm.core.record import Record
from odin_slm.tasks.answers import AnswerTask
from odin_slm.tasks.card import CardParts
from odin_slm.tasks.metric import Metric
from odin_slm.tasks.rows import Rows
from odin_slm.tasks.spelling import metrics
from odin_slm.tasks.spelling.breakdown import breakdown, details
from odin_slm.tasks.spelling.card import spelling_card
from odin_slm.tasks.spelling.questions import (
    LETTERS,
    MADE,
    SPELLING,
    TESTED,
    LetterKind,
    Question,
    SpellingKind,
    kind_and_word,
    question,
    training_questions,
)

COUNT = Metric("letter_count_accuracy", "letter count accuracy", ("letter_count_accuracy",))
MEASURES = (
    COUNT,
    Metric("letter_position_accuracy", "letter position accuracy", ("letter_position_accuracy",)),
    Metric("spelling_accuracy", "words spelled exactly", ("spelling_accuracy",)),
    Metric("character_level_accuracy", "character level accuracy", ("character_level_accuracy",)),
    Metric("levenshtein_distance", "Levenshtein distance", ("levenshtein_distance",), higher_is_better=False),
    Metric("letter_count_apart_accuracy", "letter count, letters apart", ("letter_count_apart_accuracy",)),
    Metric("letter_position_apart_accuracy", "letter position, letters apart", ("letter_position_apart_accuracy",)),
)
_RIGHT = {
    "count": ("letter_count_accuracy", metrics.count_is_right),
    "position": ("letter_position_accuracy", metrics.letter_is_right),
    "count_apart": ("letter_count_apart_accuracy", metrics.count_is_right),
    "position_apart": ("letter_position_apart_accuracy", metrics.letter_is_right),
}
"""Kind of question -> its figure, and what is right."""


class SpellingOptions(BaseModel):
    """``task.options`` of the task ``spelling``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: tuple[SpellingKind | LetterKind, ...] = Field(default=SPELLING, min_length=1)
    """Kinds of questions that training asks. Those on count and position have wordings of their own, and bound what
    a model can learn."""
    questions_per_word: int | None = Field(default=None, ge=1)
    """Questions that a training word is asked, drawn from these kinds; null: one of each kind."""


class SpellingTask(AnswerTask):
    """Spelling, letter counts and letter positions."""

    name: ClassVar[str] = "spelling"
    title: ClassVar[str] = "spelling, letter counts and letter positions"
    tags: ClassVar[tuple[str, ...]] = ("spelling",)
    unit: ClassVar[str] = "word"
    headline: ClassVar[tuple[Metric, ...]] = (COUNT,)
    example: ClassVar[str] = question("count", " strawberry").text

    def __init__(self, options: SpellingOptions | None = None) -> None:
        self._options = options or SpellingOptions()

    @classmethod
    def from_options(cls, options: Mapping[str, Any], sources: Mapping[str, Any] | None = None) -> Self:
        """See :meth:`Task.from_options`; the options are those of :class:`SpellingOptions`."""
        try:
            return cls(SpellingOptions.model_validate(dict(options)))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"task.options.{'.'.join(map(str, first['loc']))}: {first['msg']}.") from None

    def options(self) -> dict[str, Any]:
        """See :meth:`Task.options`."""
        return self._options.model_dump(mode="json")

    @property
    def measures(self) -> tuple[Metric, ...]:
        """See :attr:`Task.measures`."""
        return MEASURES

    # Data

    def instruction(self, source: str) -> str:
        """Return the one instruction."""
        return "Answer the question about the letters of a word."

    def answer(self, document: Document) -> str:
        """Return the word, spelled."""
        return question("spell", document.text).answer

    def questions(self, document: Document) -> list[Question]:
        """Return what is asked of a word: the kinds of training, or, in the test, spelling, counts and positions.

        A word made of tokens is no word, and is asked to be spelled alone.

        Raises:
            WrongParameterError: There is one, and training is not to spell.
        """
        if document.split == "test":
            return [question(kind, document.text) for kind in TESTED]
        if document.id.endswith(MADE):
            if "spell" not in self._options.train:
                raise WrongParameterError(
                    f"it leaves out spell, which alone is asked of words made of tokens, such as {document.id}.",
                    where="task.spelling.train",
                    fix="Add spell to it, or set ingestion.options.words.joined to 0.",
                )
            return [question("spell", document.text)]
        return list(training_questions(document.text, self._options.train, self._options.questions_per_word))

    def records(self, document: Document, instruction: str, **options: Any) -> list[Record]:
        """See :meth:`Task.records`: one record a question."""
        return [
            Record(
                instruction=instruction,
                input=asked.text,
                output=asked.answer,
                id=f"{document.id}-{asked.kind}",
                source=document.source,
                document_id=document.id,
            )
            for asked in self.questions(document)
        ]

    def subject(self, record: Mapping[str, Any]) -> str:
        """Return the word of a question, with the space before it where one stands there; else the input."""
        found = kind_and_word(record["input"])
        return found[1] if found else str(record["input"])

    def leaks(self, splits: Mapping[str, Sequence[Record]]) -> dict[str, list[dict[str, Any]]]:
        """Return the records outside the test that ask what only the test may ask, in any wording."""
        allowed = {f"trained_{kind}" if kind in LETTERS else kind for kind in self._options.train}
        return {
            "test_questions": [
                {
                    "documents": [record["document_id"]],
                    "splits": [split, "test"],
                    "fix": f"The record {record['id']} asks what training must not: take it out, or name its kind in "
                    "task.options.train.",
                }
                for split, records in splits.items()
                for record in records
                if split != "test" and (kind_and_word(record["input"]) or ("",))[0] not in allowed
            ]
        }

    # Evaluation

    def faults(self, output: str) -> tuple[str, ...]:
        """Return an empty output, or the lines after the first: an answer has one."""
        first, *others = output.strip().split("\n")
        return tuple(others) if first else ("",)

    def is_right(self, gold: str, prediction: str) -> bool:
        """Tell whether an output is the right answer: a number, or the letters in their order."""
        if gold.isdigit():
            return metrics.count_is_right(gold, prediction)
        return metrics.letter_is_right(gold, prediction) if len(gold) == 1 else metrics.is_spelled(gold, prediction)

    def credits(self, row: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """See :meth:`AnswerTask.credits`: one figure for a count or a position, three for a spelled word."""
        kind = (kind_and_word(row["input"]) or ("",))[0]
        gold, output = row["gold"], row["prediction"]
        if kind in _RIGHT:
            name, right = _RIGHT[kind]
            return {name: (float(right(gold, output)), 1.0)}
        if kind != "spell":
            return {}
        return {
            "spelling_accuracy": (float(metrics.is_spelled(gold, output)), 1.0),
            "character_level_accuracy": (metrics.character_level_accuracy(gold, output), 1.0),
            "levenshtein_distance": (metrics.levenshtein_distance(gold, output), 1.0),
        }

    def score(
        self,
        predictions: Rows,
        base_predictions: Rows | None,
        training_records: Rows | None,
        *,
        experiment: str,
        calibrator: Mapping[str, Any] | None = None,
        resamples: int = 1000,
        seed: int = 42,
    ) -> dict[str, Any]:
        """See :meth:`Task.score`; and by length and by number of tokens of the word, under ``breakdown``."""
        sampling: dict[str, Any] = {"resamples": resamples, "seed": seed}
        results = super().score(predictions, base_predictions, training_records, experiment=experiment, **sampling)
        results["breakdown"] = breakdown(self, predictions, **sampling)
        if results["base"]:
            results["base"]["breakdown"] = breakdown(self, base_predictions or (), **sampling)
        return results

    def details(self, results: Mapping[str, Any]) -> str:
        """See :meth:`AnswerTask.details`."""
        return details(results, self.measures)

    # Publishing

    def card(
        self,
        sources: Mapping[str, str],
        instructions: Mapping[str, str],
        results: Mapping[str, Any] | None = None,
    ) -> CardParts:
        """See :meth:`Task.card`."""
        return spelling_card(self, instructions, results)


TASK = SpellingTask
