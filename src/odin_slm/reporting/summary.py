"""The closing summary of a run: what the data are, what the scores mean, where everything lies, what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from odin_slm.release.checks import leak_counts
from odin_slm.tasks.metric import Metric

_PLACES = {
    "report": "report",
    "adapter": "adapter",
    "model_release": "model release",
    "dataset_release": "dataset release",
    "hub_model": "model on the Hub",
    "hub_dataset": "dataset on the Hub",
}
_WIDEST = 3
"""Figures that fit beside each other on a terminal."""


@dataclass(frozen=True)
class RunSummary:
    """What a run leaves to say.

    Attributes:
        experiment: Name of the experiment.
        headline: The metrics that are shown.
        unit: What the task calls a document.
        env: Kedro environment, None for the default one.
        values: Dataset name -> value, for those of :attr:`READS` that the run's pipelines know.
        places: Dataset name -> path relative to the project's folder; for a repository on the Hub, its name.
        tracking: MLflow experiment name and run id, or None.
        seconds: Pipeline name -> seconds.
    """

    READS: ClassVar[frozenset[str]] = frozenset(
        {"data_statistics", "leakage", "manifest", "evaluation_results", "registered_model"}
    )

    experiment: str
    headline: tuple[Metric, ...] = ()
    unit: str = "document"
    env: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    tracking: tuple[str, str] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def print_summary(summary: RunSummary, console: Console | None = None) -> None:
    """Print the summary to standard output."""
    (console or Console()).print(Group(*_parts(summary)))


def _parts(summary: RunSummary) -> Iterator[RenderableType]:
    yield Text()
    yield Text(f"Experiment {summary.experiment}", style="bold")
    if "data_statistics" in summary.values:
        yield _data(summary.values["data_statistics"], summary.unit)
        yield from _data_notes(summary.values)
    if "evaluation_results" in summary.values:
        results = summary.values["evaluation_results"]
        yield _scores(results, summary.headline)
        yield _test_set(results["test_set"], summary.unit)
    yield _where(summary)
    yield _next(summary)


def _data(statistics: Mapping[str, Any], unit: str) -> RenderableType:
    table = Table("source", title=f"Data: records (of {unit}s)", title_justify="left", box=box.SIMPLE)
    for split in statistics:
        table.add_column(split, justify="right")
    sources = sorted({source for counts in statistics.values() for source in counts if source != "all"})
    for source in [*sources, "all"]:
        cells = [counts.get(source, {"records": 0, "documents": 0}) for counts in statistics.values()]
        table.add_row(source, *(f"{cell['records']:,} ({cell['documents']:,})" for cell in cells))
    return table


def _data_notes(values: Mapping[str, Any]) -> Iterator[RenderableType]:
    synthetic = values.get("manifest", {}).get("synthetic_sources", [])
    if synthetic:
        yield _note(f"Synthetic, written by this project's generator: {', '.join(synthetic)}.", "yellow")
    leakage = values.get("leakage")
    if leakage:
        found = leak_counts(leakage)
        counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in found.items())
        yield _note(f"Leakage between splits: {counts}.", "red" if any(found.values()) else "green")


def _scores(results: Mapping[str, Any], headline: tuple[Metric, ...]) -> RenderableType:
    table = Table("(95 % interval)", title="Scores on the test set", title_justify="left", box=box.SIMPLE)
    models = dict(_scored(results))
    if len(headline) > _WIDEST:  # a figure a row
        for label in models:
            table.add_column(label, justify="right")
        for metric in headline:
            table.add_row(metric.title, *(_figure(metric, scored) for scored in models.values()))
        return table
    for metric in headline:
        table.add_column(metric.title, justify="right")
    for label, scored in models.items():
        table.add_row(label, *(_figure(metric, scored) for metric in headline))
    return table


def _scored(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for model, scored in (("base", results.get("base")), ("fine-tuned", results)):
        if scored:
            yield f"{model}, {scored['decoding']} decoding", scored
            if scored.get("free"):
                yield f"{model}, free decoding", scored["free"]


def _figure(metric: Metric, scored: Mapping[str, Any]) -> str:
    value, interval = metric.value(scored), scored.get("intervals", {}).get(metric.name)
    return f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})" if interval else f"{value:.3f}"


def _test_set(test_set: Mapping[str, Any], unit: str) -> RenderableType:
    sources = ", ".join(f"{name} {count}" for name, count in test_set["sources"].items())
    sizes = f"n = {test_set['examples']:,} examples of {test_set['documents']:,} {unit}s ({sources})"
    kind = "synthetic texts, so these figures say nothing about real ones" if test_set["synthetic"] else "real texts"
    return _note(f"{test_set['description']}: {sizes}; {kind}.", "yellow" if test_set["synthetic"] else "")


def _where(summary: RunSummary) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, label in _PLACES.items():
        if name in summary.places:
            table.add_row(f"  {label}", Text(summary.places[name], overflow="fold"))
    if registered := summary.values.get("registered_model"):
        standing = "the champion" if registered["version"] == registered["champion"] else "a challenger"
        why = f"{registered['name']} version {registered['version']}, {standing}: {registered['why']}"
        table.add_row("  registered", Text(why, overflow="fold"))
    if summary.tracking:
        table.add_row("  MLflow run", Text(f"{summary.tracking[1]} in experiment {summary.tracking[0]}"))
    if summary.seconds:
        parts = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in summary.seconds.items())
        table.add_row("  time", Text(f"{_duration(sum(summary.seconds.values()))}: {parts}"))
    return table


def _next(summary: RunSummary) -> RenderableType:
    arguments = f' ARGS="--env {summary.env}"' if summary.env else ""
    table = Table.grid(padding=(0, 2))
    table.add_row(f"  make viz{arguments}", "the lineage, with data, figures and results in it")
    table.add_row(f"  make ui{arguments}", "this run beside the others")
    if summary.env:
        table.add_row("  make notebooks", "explore the data; look at predictions and errors")
    else:
        table.add_row('  make run ARGS="--env nano --params corpora=DIR"', "the same on the real corpora")
    return Group(Text("\nNext", style="bold"), table)


def _note(text: str, style: str) -> RenderableType:
    return Padding(Text(text, style=style), (0, 0, 0, 2))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
