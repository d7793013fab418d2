"""What a task is: all that data preparation, training, inference, evaluation, publishing and serving ask of one.

A task turns documents into records, reads what a model writes, and scores it. Everything else (splits, the training
loop, decoding, tracking, the registry, releases, the service) is the same for every task and knows it by this page
alone. A task is a value: ``to_dict`` goes into a model's folder, and :func:`odin_slm.tasks.load` makes it again.

:class:`~odin_slm.tasks.answers.AnswerTask` is the short way to a new one: a prompt, an answer, right or wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from odin_slm.core.document import Document
from odin_slm.core.record import Record
from odin_slm.tasks.calibration import Calibrated
from odin_slm.tasks.card import CardParts, card_parts
from odin_slm.tasks.check import Check
from odin_slm.tasks.grammar import Grammar
from odin_slm.tasks.metric import Metric
from odin_slm.tasks.rows import Rows

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from pydantic import BaseModel


class Task(Calibrated, ABC):
    """A task. Its values are frozen, can be pickled, and are equal where their options are."""

    name: ClassVar[str]  # in ``task.name``
    title: ClassVar[str]  # what cards call it
    tags: ClassVar[tuple[str, ...]] = ("biomedical", "medical")  # of its models on the Hub
    unit: ClassVar[str] = "document"  # one text of its data, in the singular; intervals and paired tests are over these
    example: ClassVar[str]  # a text of our own to ask a model with
    headline: ClassVar[tuple[Metric, ...]]  # the figures that decide, the first one first
    scores_documents: ClassVar[bool] = False  # whether score_documents is there

    @property
    def measures(self) -> tuple[Metric, ...]:
        """Figures that are shown, those of the headline first; the others decide nothing."""
        return self.headline

    @classmethod
    @abstractmethod
    def from_options(cls, options: Mapping[str, Any], sources: Mapping[str, Any] | None = None) -> Task:
        """Return the task for ``task.options``; ``sources``: corpus -> what its parser says that it annotates.

        Raises:
            ValueError: An option is unknown or wrong; the message names it.
        """

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return JSON-ready options; ``from_options(options()) == self``."""

    def to_dict(self) -> dict[str, Any]:
        """Return what :func:`odin_slm.tasks.load` makes the task of."""
        return {"name": self.name, "options": self.options()}

    # Data

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """Names that :meth:`instruction` takes."""

    @property
    def default_source(self) -> str:
        """The one for texts for which none is named."""
        return self.sources[0]

    @abstractmethod
    def instruction(self, source: str) -> str:
        """Return what a model is asked with for a source, or for a schema that a request names; KeyError: unknown."""

    @property
    def shared_instruction(self) -> str:
        """The single instruction of ``ingestion.instruction: shared``, whatever the source."""
        return self.instruction(self.default_source)

    @property
    def needs_own_instructions(self) -> bool:
        """Whether a model has to be told the source, as what it writes depends on it."""
        return False

    def describe_source(self, source: str) -> dict[str, list[str]]:
        """Return, by kind, the labels of a source: the service shows them, and every split should hold them."""
        return {}

    def document_fault(self, document: Document) -> str:
        """Return what in a parsed document the task cannot use, as a sentence without its end; empty: nothing."""
        return ""

    @abstractmethod
    def records(self, document: Document, instruction: str, **options: Any) -> list[Record]:
        """Turn a document, or a window of one, into its records; options of ``ingestion``, as ``relation_mentions``."""

    def windows(self, document: Document, fits: Callable[[Document], bool], *, characters: int) -> Iterator[Document]:
        """Cut a document whose records exceed the token budget; the default has nowhere to cut, and leaves it out.

        ``characters`` guesses how long a window may be, ``fits`` tells whether the records of one do.

        Raises:
            RecordTooLongError: A piece that cannot be cut does not fit.
        """
        return iter(())

    def checks(self) -> Iterable[Check]:
        """Return the rules that records of this task must keep, beside those of all records."""
        return ()

    def cleaned(self, record: Record, clean: Callable[[str], str]) -> Record:
        """Return a record whose texts went through ``clean``; the record itself where that would break it."""
        return {**record, "input": clean(record["input"]), "output": clean(record["output"])}

    def written(self, instruction: str, text: str, output: str) -> str:
        """Return the output of a record as a model is to write it, where that is otherwise than records have it."""
        return output

    def taught(self, record: Record) -> Record:
        """Return a record as a model learns it."""
        return Record({**record, "output": self.written(record["instruction"], record["input"], record["output"])})

    def exercises(self, record: Record, fits: Callable[[Record], bool], seed: int) -> list[Record]:
        """Return what else a training record teaches, beside its output; ``fits`` tells whether it is short enough."""
        return []

    def renaming(self, train: Sequence[Record], share: float, seed: int) -> Callable[[Record], Record] | None:
        """Return what puts names of training records into the place of others; None where texts hold no names.

        ``share``: the chance of each name to become another one.
        """
        return None

    def labels(self, output: str) -> dict[str, list[str]]:
        """Return, by kind, the labels in an output; statistics count them."""
        return {}

    def items(self, output: str) -> dict[str, set[tuple[str, ...]]]:
        """Return, by kind, what an output says; the leakage report counts what training says too."""
        return {"outputs": {(output.casefold(),)}}

    def subject(self, record: Mapping[str, Any]) -> str:
        """Return what a record is about, which may lie in one split alone; by default its input."""
        return str(record["input"])

    def leaks(self, splits: Mapping[str, Sequence[Record]]) -> dict[str, list[dict[str, Any]]]:
        """Return, by kind, what else of this task must not lie where it does in the splits; the run then stops.

        A leak has ``documents`` and ``splits`` that it is between, and ``fix``, the way out.
        """
        return {}

    # Inference

    def grammar(self, instruction: str, text: str, point: Mapping[str, Any] = MappingProxyType({})) -> Grammar | None:
        """Return what holds an output to its text, at an operating point; None where outputs are always free."""
        return None

    def output_tokens(self, most: int, window_tokens: int) -> int:
        """Return the budget of an output in tokens, where ``most`` are set for a text of ``window_tokens``, at most."""
        return most

    @abstractmethod
    def read(
        self,
        text: str,
        output: str,
        *,
        begin: int = 0,
        end: int | None = None,
        lines: Sequence[float | None] = (),
        calibrator: Mapping[str, Any] | None = None,
    ) -> Reading:
        """Read what a model wrote of ``text[begin:end]``, and put it back on the text.

        ``lines`` are the log-probabilities of the output's lines, which the calibrator (:meth:`fit_calibration`) turns
        into chances to be right; without them nothing has a confidence.
        """

    @abstractmethod
    def merge(self, text: str, readings: Sequence[Any]) -> Any:
        """Join what was read from the windows of one text."""

    @abstractmethod
    def answer_model(self) -> type[BaseModel]:
        """Return what the service answers for a text, as a pydantic model: fields, meanings, types."""

    @abstractmethod
    def table_row(self, reading: Any) -> dict[str, Any]:
        """Return what a registered model answers for a text, beside ``finished``."""

    @abstractmethod
    def table_columns(self) -> list[Any]:
        """Return the columns of :meth:`table_row` as MLflow's ``ColSpec``."""

    # Evaluation

    def faults(self, output: str) -> tuple[str, ...]:
        """Return the lines of an output that follow no rule of the format."""
        return ()

    def is_right(self, gold: str, prediction: str) -> bool:
        """Tell whether an output says all that it should, and nothing else; cards show some that do not."""
        return self.items(gold) == self.items(prediction)

    @abstractmethod
    def columns(self, text: str, output: str, lines: Sequence[float | None]) -> dict[str, Any]:
        """Return the task's own columns of a predictions file: what is parsed from an output."""

    @abstractmethod
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
        """Score a model's predictions, and compare them with the base model's on the same examples.

        Returns:
            ``evaluation_results``: ``experiment``, ``test_set`` and ``training_set`` (:mod:`odin_slm.tasks.rows`),
            ``decoding``, every figure of :attr:`measures` at its path, ``intervals`` (95 %, by metric),
            ``output_quality`` with at least ``parse_failure_rate`` and ``unfinished_rate``; the same for a second, free
            decoding under ``free``, for the base under ``base`` (None where there is none); ``difference``: by metric
            what :meth:`difference` says of fine-tuned minus base; ``comparison``: why there is none.

        Raises:
            PredictionsError: There is no row, a field is missing, or an id occurs twice.
        """

    @abstractmethod
    def difference(
        self, predictions: Rows, others: Rows, *, resamples: int = 1000, seed: int = 42, name: str = "other model"
    ) -> dict[str, dict[str, Any]]:
        """Compare two models on the same examples, paired by document.

        Returns:
            By metric, at least of :attr:`measures`: ``value`` (predictions minus others), the 95 % ``interval`` of
            a paired bootstrap, and the two-sided ``p_value`` of paired approximate randomisation.

        Raises:
            PredictionsError: The rows are not of the same examples, or not of the same data.
        """

    @abstractmethod
    def headline_values(self, predictions: Rows) -> dict[str, float]:
        """Return the headline figures alone, by metric."""

    def score_documents(self, documents: Rows, *, resamples: int = 1000, seed: int = 42) -> dict[str, Any]:
        """Score rows of :func:`odin_slm.inference.documents.read_documents`: whole documents, windows merged."""
        raise NotImplementedError(f"{self.name} does not score documents.")

    def score_protocols(
        self, documents: Rows, corpus: Iterable[Mapping[str, Any]], *, resamples: int = 1000, seed: int = 42
    ) -> dict[str, Any]:
        """Score the same rows as the literature scores the corpora that they come from; return protocol -> scores.

        ``corpus`` holds the corpora's documents, as of :meth:`odin_slm.core.document.Document.to_dict`.
        """
        return {}

    @abstractmethod
    def tracked(self, results: Mapping[str, Any]) -> dict[str, float]:
        """Return the figures of ``evaluation_results`` as the metrics of a tracked run."""

    def figures(self, results: Mapping[str, Any], training_state: Mapping[str, Any] | None) -> dict[str, Figure]:
        """Return the figures of an evaluation by name, for Kedro-Viz and the report."""
        return {}

    @abstractmethod
    def overview(self, results: Mapping[str, Any], training_state: Mapping[str, Any] | None) -> Any:
        """Return an evaluation on one page, as a matplotlib figure."""

    @abstractmethod
    def report(
        self,
        results: Mapping[str, Any],
        predictions: Rows,
        training_state: Mapping[str, Any] | None,
        promotion: Mapping[str, Any] | None,
        *,
        significance: float = 0.05,
    ) -> str:
        """Return the report of an evaluation as one HTML page that needs no other file.

        ``significance`` is the level below which an adjusted p-value shows a difference from the base.
        """

    # Publishing

    def card(
        self, sources: Mapping[str, str], instructions: Mapping[str, str], results: Mapping[str, Any] | None = None
    ) -> CardParts:
        """Return what the task says on the cards of its models and its data.

        Args:
            sources: Source of the data -> title of its corpus.
            instructions: Source -> instruction of its records.
            results: ``evaluation_results``; None for data, and for a model that was not evaluated.
        """
        return card_parts(self, instructions, results)


class Reading(Protocol):
    """What was read from a text or a document."""

    @property
    def malformed(self) -> int:
        """Number of the output's lines that follow no rule of the format."""

    @property
    def ungrounded(self) -> bool:
        """Whether it names something that the text does not hold."""

    def labels(self) -> dict[str, list[str]]:
        """Return, by kind, the labels that were found; the service counts them."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as the service answers: the fields of :meth:`Task.answer_model`."""
