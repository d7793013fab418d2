"""The short way to a new task: a prompt, one answer, right or wrong.

A subclass says what a document asks and answers; scores, report and card come with it. Texts are compared as
names are (:mod:`odin_slm.core.folding`).
"""

from __future__ import annotations

import html
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from odin_slm.core.document import Document
from odin_slm.core.errors import PredictionsError
from odin_slm.core.folding import fold
from odin_slm.core.record import Record
from odin_slm.tasks.base import Task
from odin_slm.tasks.criteria import improvements
from odin_slm.tasks.metric import Metric
from odin_slm.tasks.rows import Rows, group_of, not_comparable, require_readable, test_set_of, training_set_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from plotly.graph_objects import Figure
    from pydantic import BaseModel

_EXAMPLES = 20
_STYLE = (
    "<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #dfe5ea}</style>"
)

ACCURACY = Metric("accuracy", "accuracy", ("accuracy",))


@dataclass(frozen=True)
class Answer:
    """An answer as it was written; see :class:`odin_slm.tasks.base.Reading`."""

    output: str
    malformed: int = 0

    @property
    def ungrounded(self) -> bool:
        """An answer names no places of the text."""
        return False

    def labels(self) -> dict[str, list[str]]:
        """Return nothing: an answer bears no labels."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Return what the service answers."""
        return {"output": self.output}


class AnswerTask(Task):
    """A task whose outputs are judged as a whole."""

    headline: ClassVar[tuple[Metric, ...]] = (ACCURACY,)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], sources: Mapping[str, Any] | None = None) -> Self:
        """See :meth:`Task.from_options`; this one has none."""
        if options:
            raise ValueError(f"the task {cls.name} takes no options, found {', '.join(options)}.")
        return cls()

    def options(self) -> dict[str, Any]:
        """See :meth:`Task.options`."""
        return {}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.options() == other.options()

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def sources(self) -> tuple[str, ...]:
        """See :attr:`Task.sources`: one, which is the task itself."""
        return (self.name,)

    @abstractmethod
    def instruction(self, source: str) -> str:
        """See :meth:`Task.instruction`; also for sources that are not listed, as a corpus' own name."""

    @abstractmethod
    def answer(self, document: Document) -> str:
        """Return the right answer to a document."""

    def is_right(self, gold: str, prediction: str) -> bool:
        """Tell whether an answer is right."""
        return fold(gold) == fold(prediction)

    def credits(self, row: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """Return what a row of the predictions file adds to the figures of :attr:`measures`, by name.

        A figure is the sum of the first numbers over the sum of the second; a row that adds nothing to one leaves it
        out.
        """
        return {ACCURACY.name: (float(self.is_right(row["gold"], row["prediction"])), 1.0)}

    def records(self, document: Document, instruction: str, **options: Any) -> list[Record]:
        """See :meth:`Task.records`."""
        return [
            Record(
                instruction=instruction,
                input=document.text,
                output=self.answer(document),
                id=document.id,
                source=document.source,
                document_id=document.id,
            )
        ]

    def read(self, text: str, output: str, **_: Any) -> Answer:
        """See :meth:`Task.read`."""
        return Answer(output, len(self.faults(output)))

    def merge(self, text: str, readings: Sequence[Answer]) -> Answer:
        """See :meth:`Task.merge`: one line a window."""
        return Answer("\n".join(reading.output for reading in readings), sum(r.malformed for r in readings))

    def answer_model(self) -> type[BaseModel]:
        """See :meth:`Task.answer_model`: ``output`` stands in every answer of the service already."""
        from pydantic import BaseModel, Field, create_model

        return create_model("TextAnswer", __base__=BaseModel, output=(str, Field(description="What the model wrote.")))

    def table_row(self, reading: Answer) -> dict[str, Any]:
        """See :meth:`Task.table_row`."""
        return {"output": reading.output}

    def table_columns(self) -> list[Any]:
        """See :meth:`Task.table_columns`."""
        from mlflow.types import ColSpec, DataType

        return [ColSpec(DataType.string, "output")]

    def columns(self, text: str, output: str, lines: Sequence[float | None]) -> dict[str, Any]:
        """See :meth:`Task.columns`: the faults of the output."""
        return {"malformed": list(self.faults(output))}

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
        """See :meth:`Task.score`."""
        refusal = not_comparable(predictions, base_predictions)
        base = None if refusal or base_predictions is None else base_predictions
        options: dict[str, Any] = {"resamples": resamples, "seed": seed}
        return {
            "experiment": experiment,
            "test_set": test_set_of(predictions, self.unit),
            "training_set": training_set_of(training_records),
            **self._scores(predictions, **options),
            "base": self._scores(base, **options) if base else None,
            "difference": self.difference(predictions, base, **options) if base else None,
            "comparison": refusal or f"fine-tuned minus base, paired by {self.unit}",
        }

    def difference(
        self, predictions: Rows, others: Rows, *, resamples: int = 1000, seed: int = 42, name: str = "other model"
    ) -> dict[str, dict[str, Any]]:
        """See :meth:`Task.difference`."""
        from odin_slm.tasks.resampling import Resampling, share

        if refusal := not_comparable(predictions, others, name):
            raise PredictionsError(f"{refusal}.", fix="Make both with the same data and test set.")
        by_id = {row["id"]: row for row in others}
        mine, theirs = self._sums(predictions), self._sums([by_id[row["id"]] for row in predictions])
        resampling = Resampling(_groups(predictions), resamples, seed)
        return {name: resampling.compare(mine[name], theirs[name], {name: share})[name] for name in mine}

    def headline_values(self, predictions: Rows) -> dict[str, float]:
        """See :meth:`Task.headline_values`."""
        from odin_slm.tasks.resampling import share

        sums = self._sums(predictions)
        return {metric.name: float(share(sums[metric.name].sum(axis=0))) for metric in self.headline}

    def tracked(self, results: Mapping[str, Any]) -> dict[str, float]:
        """See :meth:`Task.tracked`."""
        found = {"test_examples": float(results["test_set"]["examples"])}
        for prefix, scores in (("", results), ("base_", results.get("base") or {})):
            for metric in self.measures:
                if metric.path[0] in scores:
                    found |= metric.with_interval(scores, prefix)
            found |= {f"{prefix}{name}": value for name, value in scores.get("output_quality", {}).items()}
        return found

    def figures(self, results: Mapping[str, Any], training_state: Mapping[str, Any] | None) -> dict[str, Figure]:
        """See :meth:`Task.figures`: the figures, base against fine-tuned, with 95 % intervals."""
        from plotly.graph_objects import Bar, Figure

        bars = []
        for title, scores in (("base", results.get("base")), ("fine-tuned", results)):
            if scores:
                values, below, above = self._with_whiskers(scores)
                whiskers = {"symmetric": False, "array": above, "arrayminus": below}
                bars.append(Bar(name=title, x=[m.title for m in self.measures], y=values, error_y=whiskers))
        return {"headline": Figure(bars, {"title": f"{self.title}, n = {results['test_set']['examples']}"})}

    def overview(self, results: Mapping[str, Any], training_state: Mapping[str, Any] | None) -> Any:
        """See :meth:`Task.overview`: the same figures."""
        from matplotlib.figure import Figure as Page

        page = Page(figsize=(6.4, 3.6), layout="constrained")
        page.suptitle(f"{results['experiment']}: {results['decoding']} decoding, n = {results['test_set']['examples']}")
        axes = page.subplots()
        for label, scores in (("base", results.get("base")), ("fine-tuned", results)):
            if scores:
                titles = [metric.title for metric in self.measures]
                values, below, above = self._with_whiskers(scores)
                axes.errorbar(titles, values, yerr=[below, above], fmt="o", capsize=4, label=label)
        axes.legend()
        return page

    def report(
        self,
        results: Mapping[str, Any],
        predictions: Rows,
        training_state: Mapping[str, Any] | None,
        promotion: Mapping[str, Any] | None,
        *,
        significance: float = 0.05,
    ) -> str:
        """See :meth:`Task.report`: the figures, what they show, the task's own tables, and the first wrong answers."""
        wrong = [row for row in predictions if not self.is_right(row["gold"], row["prediction"])]
        scored = [("fine-tuned", results), ("base alone", results.get("base"))]
        rows = [[title, *(figure(metric, s) for metric in self.measures)] for title, s in scored if s]
        examples = [[row["id"], row["input"], row["gold"], row["prediction"]] for row in wrong[:_EXAMPLES]]
        test_set = results["test_set"]
        described = f"{test_set['description']}, n = {test_set['examples']:,}; 95 % intervals over {self.unit}s."
        title = f"{self.title.capitalize()}: {results['experiment']}"
        decided = f"Champion: {promotion['decision']} ({promotion['why']})." if promotion else ""
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>{_STYLE}"
            f"<h1>{html.escape(title)}</h1><p>{html.escape(described)}</p>"
            + table(["", *(metric.title for metric in self.measures)], rows)
            + f"<p>{html.escape(decided)}</p><h2>Fine-tuned against base</h2>"
            + _criteria_table(improvements(results, self.measures, significance=significance))
            + self.details(results)
            + f"<h2>Wrong answers ({len(wrong):,})</h2>"
            + table(["id", "input", "expected", "found"], examples)
        )

    def details(self, results: Mapping[str, Any]) -> str:
        """Return further sections of the report, as HTML."""
        return ""

    def _with_whiskers(self, scores: Mapping[str, Any]) -> tuple[list[float], list[float], list[float]]:
        """Return the figures, and how far their intervals reach below and above them."""
        values = [metric.value(scores) for metric in self.measures]
        ends = [scores["intervals"][metric.name] for metric in self.measures]
        # The ends are means, too: where all examples score alike, rounding may put them on the wrong side of the value.
        below = [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)]
        return values, below, [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)]

    def _scores(self, rows: Rows, *, resamples: int, seed: int) -> dict[str, Any]:
        import numpy

        from odin_slm.tasks.resampling import Resampling, share

        if not rows:
            raise PredictionsError("there is no prediction to score.", fix="Run the evaluation pipeline on a test set.")
        sums = self._sums(rows)
        resampling = Resampling(_groups(rows), resamples, seed)
        unfinished = numpy.array([not row.get("finished", True) for row in rows], dtype=float)
        faulty = numpy.array([bool(self.faults(row["prediction"])) for row in rows], dtype=float)
        return {
            "decoding": rows[0].get("decoding", "free"),
            **{name: float(share(columns.sum(axis=0))) for name, columns in sums.items()},
            "intervals": {name: resampling.interval(columns, share) for name, columns in sums.items()},
            "output_quality": {
                "parse_failure_rate": float(numpy.maximum(unfinished, faulty).mean()),
                "unfinished_rate": float(unfinished.mean()),
                "examples": len(rows),
            },
        }

    def _sums(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return, by figure, what every example adds to it; each of shape (examples, 2)."""
        import numpy

        require_readable(rows)
        credits = [self.credits(row) for row in rows]
        names = [metric.name for metric in self.measures]
        return {name: numpy.array([found.get(name, (0.0, 0.0)) for found in credits]) for name in names}


def _groups(rows: Rows) -> Any:
    import numpy

    return numpy.unique([group_of(row) for row in rows], return_inverse=True)[1]


def figure(metric: Metric, scores: Mapping[str, Any]) -> str:
    """Return a figure with its interval, as the report shows it."""
    low, high = scores["intervals"][metric.name]
    return f"{metric.value(scores):.3f} [{low:.3f}, {high:.3f}]"


def _criteria_table(criteria: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            found["title"],
            f"{found['improvement']:+.3f} [{found['interval'][0]:+.3f}, {found['interval'][1]:+.3f}]",
            f"{found['p_value_adjusted']:.4f}",
            found["why"],
        ]
        if "improvement" in found
        else [found["title"], "", "", found["why"]]
        for found in criteria
    ]
    return table(["", "improvement, paired [95 %]", "p (Holm)", "shown"], rows)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of the report as HTML; every cell is text."""
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in headers)]
    lines += ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
