"""What a task is: all that data preparation, training, inference, evaluation, publishing and serving ask of one.

A task turns documents into records, reads what a model writes, and scores it. Everything else (splits, the training
loop, decoding, tracking, the registry, releases, the service) is the same for every task and knows it by this page
alone. A task is a value: ``to_dict`` goes into a model's folder, and :func:`odin_slm.tasks.load` makes it again.

:class:`~odin_slm.tasks.answers.AnswerTask` is the short way to a new one: a prompt, an answer, right or wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from odin_slm.core.document import Document
from odin_slm.core.record import Record
from odin_slm.tasks.card import CardParts, card_parts
from odin_slm.tasks.criteria import improvements

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from pydantic import BaseModel

Rows = Sequence[Mapping[str, Any]]
"""Rows of a predictions file: ``id``, ``input``, ``gold``, ``prediction`` (texts), provenance, and the task's own."""


@dataclass(frozen=True)
class Metric:
    """A figure that decides which model is better.

    Attributes:
        name: Its name in MLflow, in ``intervals`` and in ``difference``.
        title: What people call it.
        path: Keys that lead to it in ``evaluation_results``.
        higher_is_better: Its direction.
    """

    name: str
    title: str
    path: tuple[str, ...]
    higher_is_better: bool = True

    def value(self, scores: Mapping[str, Any]) -> float:
        """Return the figure of one model and decoding."""
        found: Any = scores
        for key in self.path:
            found = found[key]
        return float(found)

    def with_interval(self, scores: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
        """Return the figure and the ends of its 95 % interval, by the names that they have in MLflow."""
        low, high = scores["intervals"][self.name]
        name = f"{prefix}{self.name}"
        return {name: self.value(scores), f"{name}_low": low, f"{name}_high": high}

    def gain(self, difference: float) -> float:
        """Return a difference such that more is better."""
        return difference if self.higher_is_better else -difference


@dataclass(frozen=True, slots=True)
class Step:
    """What follows a text that a grammar has been asked about; one of the three.

    Attributes:
        lark: The grammar of the next phase.
        forced: Text that has to follow; the grammar is asked again after it.
        closed: Whether the output is complete as it is, without its last line break.
    """

    lark: str = ""
    forced: str = ""
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """An output after alternatives to it were weighed.

    Attributes:
        text: The output.
        lines: Log-probability of every line.
        weighed: What was weighed, as a line of the output, and its score (a log-probability).
    """

    text: str
    lines: tuple[float | None, ...]
    weighed: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """How the list that is being written may end.

    Attributes:
        text: What would end it; empty for the end of the output.
        bias: What is added to the log-odds of ending it against going on.
    """

    text: str
    bias: float


class Grammar(Protocol):
    """What one output may say, in phases; both engines of decoding follow it."""

    @property
    def biased(self) -> bool:
        """Whether :meth:`ending` has anything to say."""

    def ending(self, text: str) -> Ending | None:
        """Return how the list may end that a text writes; None where a line is under way that has to go on.

        Args:
            text: All that has been written. At its end stands the begin of a line, or the last character of an item.
        """

    def lark(self) -> str:
        """Return the grammar of the first phase, as llguidance reads it."""

    def step(self, phase: int, text: str) -> Step | None:
        """Return what follows a text that has just reached the end of a line; None: the phase goes on.

        Args:
            phase: Number of the phase, from 0.
            text: All that has been written.
        """

    def complete(self, text: str) -> str:
        """Return an output that the token budget cut off as a whole one."""

    def accepts(self, output: str) -> bool:
        """Tell whether an output can be written under the grammar."""

    @property
    def judges(self) -> bool:
        """Whether :meth:`alternatives` are weighed once an output is written."""

    def alternatives(self, output: str) -> Sequence[str]:
        """Return outputs that are to be weighed against each other after an output; there may be none."""

    def judged(self, output: str, lines: Sequence[float | None], log_shares: Sequence[float]) -> Judgement:
        """Return what becomes of an output.

        Args:
            output: What was written.
            lines: Log-probability of every line.
            log_shares: Log-probability of each of the :meth:`alternatives`, given that the model writes one of them.
        """


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


@dataclass(frozen=True, slots=True)
class Check:
    """A rule that every record of a dataset must keep.

    Attributes:
        name: What must hold.
        severity: ``critical``, ``high`` or ``medium``.
        holds: Whether it holds of a record.
        fix: The way out.
        limit: Name of the quality profile's limit on the share of failures; empty: none may fail.
    """

    name: str
    severity: str
    holds: Callable[[Record], bool]
    fix: str
    limit: str = ""


class Task(ABC):
    """A task. Its values are frozen, can be pickled, and are equal where their options are."""

    name: ClassVar[str]
    """Its name in ``task.name``."""
    title: ClassVar[str]
    """What cards call it."""
    tags: ClassVar[tuple[str, ...]] = ()
    """Tags of its models on the Hub."""
    domain: ClassVar[tuple[str, ...]] = ("biomedical", "medical")
    """Tags that say what its texts are about."""
    headline: ClassVar[tuple[Metric, ...]]
    """The figures that decide, the first one first."""
    unit: ClassVar[str] = "document"
    """What one text of its data is, in the singular; intervals and paired tests are over these."""
    scores_documents: ClassVar[bool] = False
    """Whether :meth:`score_documents` is there; for a task that does not cut documents its records are all there is."""
    example: ClassVar[str]
    """A text of our own to ask a model with."""

    @property
    def measures(self) -> tuple[Metric, ...]:
        """Figures that are shown, those of the headline first; the others decide nothing."""
        return self.headline

    # As a value

    @classmethod
    @abstractmethod
    def from_options(cls, options: Mapping[str, Any], sources: Mapping[str, Any] | None = None) -> Task:
        """Return the task of an experiment.

        Args:
            options: ``task.options``.
            sources: Corpus -> what its parser says that it annotates (:attr:`odin_slm.corpora.parsed.Corpus.schema`).

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

    @abstractmethod
    def instruction(self, source: str) -> str:
        """Return what a model is asked with for a source, or for a schema that a request names.

        Raises:
            KeyError: There is no such source.
        """

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """Names that :meth:`instruction` takes."""

    @property
    def default_source(self) -> str:
        """The one for texts for which none is named."""
        return self.sources[0]

    @property
    def shared_instruction(self) -> str:
        """The single instruction of ``ingestion.instruction: shared``, whatever the source."""
        return self.instruction(self.default_source)

    def document_fault(self, document: Document) -> str:
        """Return what in a parsed document the task cannot use, as a sentence without its end; empty: nothing."""
        return ""

    @abstractmethod
    def records(self, document: Document, instruction: str, **options: Any) -> list[Record]:
        """Turn a document, or a window of one, into its records.

        Args:
            document: The document.
            instruction: What the model is asked with.
            **options: Of ``ingestion``, as ``relation_mentions``.
        """

    def windows(self, document: Document, fits: Callable[[Document], bool], *, characters: int) -> Iterator[Document]:
        """Cut a document that exceeds the token budget; the default has nowhere to cut, and leaves it out.

        Args:
            document: The document.
            fits: Whether the records of a window fit.
            characters: A guess of how long a window may be.

        Raises:
            RecordTooLongError: A piece that cannot be cut does not fit.
        """
        return iter(())

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
        """Return, by kind, what else of this task must not lie where it does; the run then stops.

        Args:
            splits: Split -> records.

        Returns:
            One entry a leak: ``documents`` and ``splits`` that it is between, and ``fix``, the way out.
        """
        return {}

    def expected_labels(self, source: str) -> tuple[str, ...]:
        """Return the labels that every split should hold of a source."""
        return ()

    def checks(self) -> Iterable[Check]:
        """Return the rules that records of this task must keep, beside those of all records."""
        return ()

    def cleaned(self, record: Record, clean: Callable[[str], str]) -> Record:
        """Return a record whose texts went through ``clean``; the record itself where that would break it."""
        return {**record, "input": clean(record["input"]), "output": clean(record["output"])}

    # Inference

    @property
    def judges(self) -> bool:
        """Whether alternatives to an output are weighed once it is written (:meth:`Grammar.alternatives`)."""
        return False

    def with_calibrator(self, calibrator: Mapping[str, Any] | None) -> Task:
        """Return the task as a model with this calibrator is asked; see :meth:`fit_calibration`."""
        return self

    @property
    def reading(self) -> dict[str, Any]:
        """What :meth:`score_documents` has to know of how the model is read; rows of documents hold it."""
        return {}

    def grammar(self, instruction: str, text: str, point: Mapping[str, Any] = MappingProxyType({})) -> Grammar | None:
        """Return the grammar that holds an output to its text, or None where outputs are always free.

        Args:
            instruction: What the model is asked with.
            text: The input.
            point: The model's operating point (:mod:`odin_slm.tasks.operating_point`).
        """
        return None

    def kept(
        self, text: str, output: str, lines: Sequence[float | None], calibrator: Mapping[str, Any] | None
    ) -> tuple[str, tuple[float | None, ...]]:
        """Return a constrained output, and its lines' log-probabilities, without what the operating point leaves out.

        Args:
            text: The input.
            output: What the model wrote.
            lines: Log-probability of every line.
            calibrator: The model's, with its operating point.
        """
        return output, tuple(lines)

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
        """Read an output, and put what it says back on its text.

        Args:
            text: The whole text.
            output: What the model wrote.
            begin: First character of the window that the model has read.
            end: Offset after its last character; None for the end of the text.
            lines: Log-probability of every line of the output; without it nothing has a confidence.
            calibrator: What turns it into the chance to be right, as :meth:`fit_calibration` returns it.
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

    def describe_source(self, source: str) -> dict[str, list[str]]:
        """Return what a request for a source looks for, as the service shows it."""
        return {}

    # Evaluation

    def faults(self, output: str) -> tuple[str, ...]:
        """Return the lines of an output that follow no rule of the format."""
        return ()

    @abstractmethod
    def columns(self, text: str, output: str, lines: Sequence[float | None]) -> dict[str, Any]:
        """Return the task's own columns of a predictions file: what is parsed from an output."""

    def to_calibrate(self, relations: str = "list") -> Task:
        """Return the task as a model is asked about validation records, on which its calibrator is fitted.

        Args:
            relations: ``evaluation.relations``.
        """
        return self

    def exploration(self, explored: Rows, method: str, objective: str | None) -> Mapping[str, Any] | None:
        """Return with which operating point validation records are to be read next; None: what was read is enough.

        By default they are read once, as the model reads without one.

        Args:
            explored: What was read so far: none at first, then the rows that :meth:`fit_calibration` takes.
            method: ``evaluation.calibration``.
            objective: ``evaluation.operating_point``; None where none is to be fitted.
        """
        return None if explored else {}

    def fit_calibration(
        self,
        predictions: Rows,
        method: str,
        objective: str | None = None,
        relations: str = "list",
        *,
        abbreviations: bool = False,
    ) -> dict[str, Any] | None:
        """Fit what turns log-probabilities into chances to be right, on validation predictions; None: there is none.

        Args:
            predictions: Rows of the last reading of validation records; ``explored`` holds ``text``, ``lines`` and
                ``ends`` (:class:`odin_slm.inference.generation.Generation`) of every reading that :meth:`exploration`
                has asked for with an operating point, in their order.
            method: ``evaluation.calibration``.
            objective: ``evaluation.operating_point``: what an operating point is fitted for beside; None for none.
            relations: ``evaluation.relations``; where it is not ``list``, rows hold ``weighed`` (:meth:`to_calibrate`).
            abbreviations: ``evaluation.abbreviations``, which the calibrator then says.
        """
        return None

    def with_confidence(self, row: dict[str, Any], calibrator: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return a row of the predictions file with the calibrated confidences of what it lists."""
        return row

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
        """Score whole documents as the service reads them, windows merged; only with :attr:`scores_documents`.

        Args:
            documents: Rows of :func:`odin_slm.inference.documents.read_documents`.
            resamples: Bootstrap resamples.
            seed: Seed of the bootstrap.
        """
        raise NotImplementedError(f"{self.name} does not score documents.")

    def score_protocols(
        self, documents: Rows, corpus: Iterable[Mapping[str, Any]], *, resamples: int = 1000, seed: int = 42
    ) -> dict[str, Any]:
        """Score whole documents as the literature scores the corpora that they come from; by default there is nothing.

        Args:
            documents: Rows of :func:`odin_slm.inference.documents.read_documents`.
            corpus: The corpora's documents, as of :meth:`odin_slm.core.document.Document.to_dict`.
            resamples: Bootstrap resamples.
            seed: Seed of the bootstrap.

        Returns:
            Name of a protocol -> its scores.
        """
        return {}

    def criteria(self, results: Mapping[str, Any], *, significance: float) -> list[dict[str, Any]]:
        """Return what counts as success, and whether the paired tests show it; see :mod:`odin_slm.tasks.criteria`."""
        return improvements(results, self.measures, significance=significance)

    @abstractmethod
    def tracked(self, results: Mapping[str, Any]) -> dict[str, float]:
        """Return the figures of ``evaluation_results`` as the metrics of a tracked run."""

    def figures(self, results: Mapping[str, Any], training_state: Mapping[str, Any] | None) -> dict[str, Figure]:
        """Return the figures of an evaluation by name, for Kedro-Viz and the report."""
        return {}

    def overview(self, results: Mapping[str, Any], training_state: Mapping[str, Any] | None) -> Any:
        """Return an evaluation on one page, as a matplotlib figure; by default the figures with their intervals."""
        from matplotlib.figure import Figure as Page

        page = Page(figsize=(6.4, 3.6), layout="constrained")
        page.suptitle(f"{results['experiment']}: {results['decoding']} decoding, n = {results['test_set']['examples']}")
        axes = page.subplots()
        models = {"base": results.get("base"), "fine-tuned": results}
        for label, scores in models.items():
            if scores:
                values = [metric.value(scores) for metric in self.measures]
                ends = [scores["intervals"][metric.name] for metric in self.measures]
                bars = [
                    [value - low for value, (low, _) in zip(values, ends, strict=True)],
                    [high - value for value, (_, high) in zip(values, ends, strict=True)],
                ]
                titles = [metric.title for metric in self.measures]
                axes.errorbar(titles, values, yerr=bars, fmt="o", capsize=4, label=label)
        axes.legend()
        return page

    @abstractmethod
    def report(
        self,
        results: Mapping[str, Any],
        predictions: Rows,
        training_state: Mapping[str, Any] | None,
        promotion: Mapping[str, Any] | None,
    ) -> str:
        """Return the report of an evaluation as one HTML page that needs no other file."""

    # Publishing

    def is_right(self, gold: str, prediction: str) -> bool:
        """Tell whether an output says all that it should, and nothing else; cards show some that do not."""
        return self.items(gold) == self.items(prediction)

    def card(
        self,
        sources: Mapping[str, str],
        instructions: Mapping[str, str],
        results: Mapping[str, Any] | None = None,
    ) -> CardParts:
        """Return what the task says on the cards of its models and its data.

        Args:
            sources: Source of the data -> title of its corpus.
            instructions: Source -> instruction of its records.
            results: ``evaluation_results``; None for data, and for a model that was not evaluated.
        """
        return card_parts(self, instructions, results)
