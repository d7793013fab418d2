"""What a task says on the cards of its models and its data; what stands here fits every task.

The release puts the parts into its templates, which hold all that does not depend on the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from odin_slm.core.markdown import interval, number, score, table

if TYPE_CHECKING:
    from odin_slm.tasks.base import Task
    from odin_slm.tasks.metric import Metric

QUALITY = {
    "parse_failure_rate": "outputs that break the format or do not end",
    "unfinished_rate": "outputs that do not end within the budget",
}
"""Rate in ``output_quality`` -> what it says, for any task."""
MEDICAL_OUT_OF_SCOPE = """\
This is not a medical device. Do not use it to diagnose, to treat, to choose a dose, to watch the safety of a drug
without review, or for any decision about a person. It has not been tested on clinical notes, on other languages, or on
texts that differ from its training data."""
INTERVALS = """\
Brackets hold 95 % intervals from a bootstrap over {unit}s (for the
difference: a paired one); they cover the choice of test {unit}s, not of the training seed."""


@dataclass(frozen=True)
class Figure:
    """A figure of the card's ``model-index``.

    Attributes:
        type: The Hub's name of the metric, as ``f1``.
        name: What it measures.
        value: The figure.
        interval: Its 95 % interval, where there is one.
    """

    type: str
    name: str
    value: float
    interval: Sequence[float] | None = None


@dataclass(frozen=True)
class CardResults:
    """What a model card shows of ``evaluation_results``.

    Attributes:
        headline: A table for the head of the card.
        text: Explanation and tables, in Markdown.
        figures: For the front matter.
    """

    headline: str
    text: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class CardParts:
    """What a task says of itself, in Markdown.

    Attributes:
        does: What a model does, in place of the dots in "A LoRA adapter with which the base … .".
        intended_use: What it is for.
        example: A text to ask it with.
        example_output: What an answer looks like; empty where there is nothing to explain.
        output_form: The sentence before that example.
        asked: The section on what its prompts ask for, heading included.
        limitations: Of the model; each a list item.
        data: What the examples of the data ask for, after "Instruction examples".
        instruction_field: What the column ``instruction`` holds.
        output_field: What the column ``output`` holds.
        data_limitations: Of the data.
        labels: Kind of label -> its labels, in the order of tables; kinds without labels show those that occur.
        titles: Name of a kind -> what people call it, where that is something else.
        categories: The Hub's ``task_categories`` of the data.
        task_ids: The Hub's ``task_ids`` of the data.
        results: What was measured; None for a model that was not evaluated.
        out_of_scope: What it must not be used for.
        subjects: What the leakage report compares.
        groups: What documents that must lie in one split share.
        document_field: What the column ``document_id`` holds.
        reads_corpora: Whether the data are made of corpora that whoever reproduces them has to get.
    """

    does: str
    intended_use: str
    example: str
    asked: str
    limitations: Sequence[str]
    data: str
    instruction_field: str
    output_field: str
    data_limitations: Sequence[str]
    results: CardResults | None
    example_output: str = ""
    output_form: str = ""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    categories: Sequence[str] = ("text-generation",)
    task_ids: Sequence[str] = ()
    out_of_scope: str = MEDICAL_OUT_OF_SCOPE
    subjects: str = "texts"
    groups: str = "PubMed ids"
    reads_corpora: bool = True
    document_field: str = "document that the example comes from; it holds the PubMed id"


def card_parts(task: Task, instructions: Mapping[str, str], results: Mapping[str, Any] | None) -> CardParts:
    """Return the parts of any task."""
    return CardParts(
        does=f"is fine-tuned for {task.title}, asked in English about biomedical texts",
        intended_use="Research: drafts that a person checks, baselines, teaching, tests of pipelines.",
        example=task.example,
        asked=f"## Instructions\n\n{instruction_list(instructions)}",
        limitations=("It may be wrong, and does not say when: look every answer up before using it.",),
        data=f"for {task.title}, over English biomedical texts from several corpora in one format",
        instruction_field="what is asked",
        output_field="the right answer",
        data_limitations=(),
        results=card_results(results, [(metric,) for metric in task.measures]) if results else None,
    )


def card_results(results: Mapping[str, Any], columns: Sequence[Sequence[Metric]]) -> CardResults:
    """Return what any task shows of its results.

    Args:
        results: ``evaluation_results``.
        columns: For every headline metric its columns; the metric itself, which has an interval, is the last one.
    """
    headline = [metrics[-1] for metrics in columns]
    decoded = (
        "Decoding is greedy and free, as in the snippet above."
        if results["decoding"] == "free"
        else f"Decoding is greedy and {results['decoding']}; **the snippet above decodes freely**."
    )
    decoded += computed_in(results)
    return CardResults(
        headline=headline_table(results, headline),
        text=f"{INTERVALS.format(unit=unit_of(results))}\n{decoded}\n\n{scores_table(results, columns)}\n\n"
        f"Quality of the output texts:\n\n{quality_table(results, QUALITY)}",
        figures=[
            Figure(
                metric.name,
                f"{metric.title} ({decoding} decoding)",
                metric.value(scores),
                scores["intervals"][metric.name],
            )
            for decoding, scores in decodings(results).items()
            for metric in headline
        ],
    )


def instruction_list(instructions: Mapping[str, str]) -> str:
    """Return what is asked for each source, as a list under its sentence."""
    lines = (f"- `{source}`: {instruction}" for source, instruction in instructions.items())
    return "\n".join(("Instructions as they stand in the training data:\n", *lines))


def computed_in(results: Mapping[str, Any]) -> str:
    """Return a sentence on the precision of the outputs; none where it is float32."""
    low = results.get("precision") == "bf16"
    return " The outputs were computed on a CPU with products in\nbfloat16; in float32 a few differ." if low else ""


def decodings(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the fine-tuned model's scores by how its outputs were decoded."""
    return {results["decoding"]: results, **({"free": results["free"]} if "free" in results else {})}


def scored(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return everything that was scored, by its title: the headline first; what was not evaluated is left out.

    Where outputs were also decoded freely, every title names its decoding.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for title, scores in (("fine-tuned", results), ("base model alone", results.get("base"))):
        if scores and scores.get("free"):
            found[f"{title}, {results['decoding']} decoding"] = scores
            found[f"{title}, free decoding"] = scores["free"]
        elif scores:
            found[title] = scores
    return found


def test_set_title(results: Mapping[str, Any]) -> str:
    """Return what the card calls the test set."""
    return "synthetic test set" if results["test_set"]["synthetic"] else "test set"


def unit_of(results: Mapping[str, Any]) -> str:
    """Return what a document of the test set is called; results from before tasks said so have documents."""
    return str(results["test_set"].get("unit", "document"))


def headline_table(results: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """Return the headline figures alone, of every model and decoding."""
    test_set = results["test_set"]
    examples, units = number(test_set["examples"]), f"{number(test_set['documents'])} {unit_of(results)}s"
    rows = [[name, *(score(m.value(scores)) for m in metrics)] for name, scores in scored(results).items()]
    headers = [f"{test_set_title(results)}, {examples} examples of {units}", *(m.title for m in metrics)]
    return table(headers, rows)


def scores_table(results: Mapping[str, Any], columns: Sequence[Sequence[Metric]]) -> str:
    """Return the scores with their intervals, and the difference from the base; ``columns`` as of the results."""
    rows = []
    for title, scores in scored(results).items():
        cells = [title]
        for *beside, metric in columns:
            bounds = interval(scores["intervals"][metric.name])
            cells += [score(other.value(scores)) for other in beside]
            cells.append(f"**{score(metric.value(scores))}** {bounds}")
        rows.append(cells)
    if results.get("difference"):
        cells = ["difference"]
        for *beside, metric in columns:
            change = results["difference"][metric.name]
            before = metric.value(results) - change["value"]
            relative = f", {change['value'] / before:+.0%} of the base's" if before > 0 else ""
            cells += [*("" for _ in beside), f"{change['value']:+.3f} {interval(change['interval'])}{relative}"]
        rows.append(cells)
    headers = [cell for *beside, m in columns for cell in (*(other.title for other in beside), f"{m.title} [95 %]")]
    return table(["", *headers], rows)


def quality_table(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Return the rates of ``output_quality`` of every model and decoding."""
    models = scored(results)
    rows = [
        [title, *(f"{scores['output_quality'][key]:.1%}" for scores in models.values())]
        for key, title in titles.items()
    ]
    return table(["", *models], rows)
