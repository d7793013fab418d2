"""Figures of an evaluation: Plotly for Kedro-Viz, matplotlib for the report and the overview.

Every function draws from ``evaluation_results`` (see :mod:`odin_slm.tasks.extraction.metrics`) or from
``training_state`` alone, so a figure can be drawn again from a stored file. Whiskers and bands are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from odin_slm.tasks.extraction.metrics import ERRORS, KINDS
from odin_slm.tasks.extraction.reporting.drawing import (
    BASE,
    COLOURS,
    FINE_TUNED,
    INK,
    plotly_figure,
    plural,
    styled,
    svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure


_WIDTH, _HEIGHT = 7.2, 3.4
"""Inches of one panel."""


def plot_type_scores(results: Mapping[str, Any]) -> PlotlyFigure:
    """Draw F1 of every entity and relation type, base against fine-tuned."""
    figure = plotly_figure(f"F1 by type, {_sample_size(results)}", "", "F1")
    for name, colour, scores in _models(results):
        rows = list(_types(results, scores))
        figure.add_bar(
            name=name,
            x=[label for label, _ in rows],
            y=[values["f1"] for _, values in rows],
            error_y=_whiskers([values["f1"] for _, values in rows], [values["f1_interval"] for _, values in rows]),
            marker_color=colour,
            customdata=[values["support"] for _, values in rows],
            hovertemplate="%{x}: F1 %{y:.3f}, %{customdata} gold<extra>" + name + "</extra>",
        )
    return figure.update_yaxes(range=[0, 1]).update_layout(barmode="group")


def plot_errors(results: Mapping[str, Any]) -> PlotlyFigure:
    """Draw how often each kind of error occurs."""
    rows = _errors(results)
    figure = plotly_figure(f"Errors of the fine-tuned model, {_sample_size(results)}", "count", "")
    return figure.add_bar(
        orientation="h",
        x=[count for _, count in rows],
        y=[name.replace("_", " ") for name, _ in rows],
        text=[count for _, count in rows],
        marker_color=[COLOURS[_kind_of(name)] for name, _ in rows],
        customdata=[ERRORS[name] for name, _ in rows],
        hovertemplate="%{x} × %{customdata}<extra></extra>",
    ).update_yaxes(autorange="reversed")


def plot_length_scores(results: Mapping[str, Any]) -> PlotlyFigure:
    """Draw F1 against the length of the input."""
    figure = plotly_figure(f"F1 by length of the input, {_sample_size(results)}", "words of the input", "F1")
    bins = results["by_length"]
    for kind in KINDS:
        values = [row[f"{kind}_f1"] for row in bins]
        figure.add_scatter(
            name=plural(kind),
            x=[_bin(row) for row in bins],
            y=values,
            error_y=_whiskers(values, [row[f"{kind}_f1_interval"] for row in bins]),
            mode="lines+markers",
            line_color=COLOURS[kind],
            customdata=[row["examples"] for row in bins],
            hovertemplate="%{x} words: F1 %{y:.3f}, %{customdata} examples<extra>" + plural(kind) + "</extra>",
        )
    return figure.update_yaxes(range=[0, 1])


def plot_training_curve(state: Mapping[str, Any] | None) -> PlotlyFigure:
    """Draw the losses, and the task's figure where it chose the checkpoint; without a state a figure that says so."""
    figure = plotly_figure("Training", "optimizer step", "loss per token")
    if state is None:
        return figure.add_annotation(text=_NO_TRAINING, showarrow=False)
    for name, colour, points in _curves(state):
        figure.add_scatter(
            name=name,
            x=[step for step, _ in points],
            y=[loss for _, loss in points],
            mode="lines+markers" if name == "validation" else "lines",
            line_color=colour,
        )
    if scored := _task_curve(state):
        title, steps, values = scored
        axis = {"overlaying": "y", "side": "right", "range": [0, 1], "title": title}
        figure.add_scatter(name=title, x=steps, y=values, yaxis="y2", mode="lines+markers", line_color=_TASK)
        figure.update_layout(yaxis2=axis)
    return figure.add_vline(x=state["best_step"], line_dash="dot", annotation_text="kept") if _kept(state) else figure


def draw_overview(results: Mapping[str, Any], state: Mapping[str, Any] | None) -> Figure:
    """Draw the four panels on one page."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(2 * _WIDTH, 2 * _HEIGHT + 0.6), layout="constrained")
        figure.suptitle(f"{results['experiment']}: {results['decoding']} decoding, {_sample_size(results)}")
        axes = figure.subplots(2, 2).flat
        for panel, ax in zip(_panels(results, state).values(), axes, strict=True):
            panel(ax)
    return figure


def draw_panels(results: Mapping[str, Any], state: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the panels ``types``, ``errors``, ``length`` and ``training`` as SVG texts, equal for equal values."""
    from matplotlib.figure import Figure

    drawn = {}
    with styled():
        for name, panel in _panels(results, state).items():
            figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
            panel(figure.subplots())
            drawn[name] = svg(figure)
    return drawn


# matplotlib


def _panels(results: Mapping[str, Any], state: Mapping[str, Any] | None) -> dict[str, Callable[[Axes], None]]:
    return {
        "types": lambda ax: _draw_types(ax, results),
        "errors": lambda ax: _draw_errors(ax, results),
        "length": lambda ax: _draw_length(ax, results),
        "training": lambda ax: _draw_training(ax, state),
    }


def _draw_types(ax: Axes, results: Mapping[str, Any]) -> None:
    models = list(_models(results))
    width = 0.8 / len(models)
    for place, (name, colour, scores) in enumerate(models):
        rows = list(_types(results, scores))
        values = [row["f1"] for _, row in rows]
        low_high = _distances(values, [row["f1_interval"] for _, row in rows])
        x = [index + (place - (len(models) - 1) / 2) * width for index in range(len(rows))]
        ax.bar(x, values, width * 0.92, color=colour, label=name, yerr=low_high, error_kw=_WHISKER)
        ax.set_xticks(
            range(len(rows)), [f"{label.replace('_', chr(10))}\n{row['support']} gold" for label, row in rows]
        )
    ax.grid(axis="x", visible=False)
    ax.set(ylim=(0, 1), ylabel="F1", title="F1 by type")
    ax.legend(loc="upper right", ncols=len(models), bbox_to_anchor=(1, 1.14))


def _draw_errors(ax: Axes, results: Mapping[str, Any]) -> None:
    rows = _errors(results)
    names = [name.replace("_", " ") for name, _ in rows]
    bars = ax.barh(names, [count for _, count in rows], color=[COLOURS[_kind_of(name)] for name, _ in rows])
    ax.bar_label(bars, padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.locator_params(axis="x", integer=True)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="count", title="Errors of the fine-tuned model")


def _draw_length(ax: Axes, results: Mapping[str, Any]) -> None:
    bins = results["by_length"]
    x = range(len(bins))
    for kind in KINDS:
        values = [row[f"{kind}_f1"] for row in bins]
        intervals = [row[f"{kind}_f1_interval"] for row in bins]
        ax.plot(x, values, marker="o", color=COLOURS[kind], label=plural(kind), clip_on=False)
        ax.fill_between(
            x, [low for low, _ in intervals], [high for _, high in intervals], color=COLOURS[kind], alpha=0.15, lw=0
        )
    ax.set_xticks(x, [f"{_bin(row)}\nn = {row['examples']}" for row in bins])
    ax.set(ylim=(0, 1), xlabel="words of the input", ylabel="F1", title="F1 by length of the input")
    ax.legend(loc="upper right", ncols=2, bbox_to_anchor=(1, 1.14))


def _draw_training(ax: Axes, state: Mapping[str, Any] | None) -> None:
    ax.set(title="Training", xlabel="optimizer step", ylabel="loss per token")
    if state is None:
        ax.text(0.5, 0.5, _NO_TRAINING, ha="center", va="center", transform=ax.transAxes)
        return
    for name, colour, points in _curves(state):
        marker = "o" if name == "validation" else None
        ax.plot([step for step, _ in points], [loss for _, loss in points], color=colour, label=name, marker=marker)
    if _kept(state):
        ax.axvline(state["best_step"], color=INK, lw=1, ls=":", label="kept")
    ax.set_ylim(bottom=0)
    if scored := _task_curve(state):
        title, steps, values = scored
        other = ax.twinx()
        other.plot(steps, values, color=_TASK, marker="o", clip_on=False)
        other.set(ylim=(0, 1), ylabel=title)
        ax.plot([], [], color=_TASK, marker="o", label=title)
    ax.legend(loc="upper right", ncols=2 if scored else 3, bbox_to_anchor=(1, 1.14))


_TASK = "#2a8c6a"
_WHISKER = {"ecolor": INK, "elinewidth": 1, "capsize": 2}
_NO_TRAINING = "The adapter was trained elsewhere; its curve is not known here."


def _whiskers(values: list[float], intervals: list[list[float]]) -> dict[str, Any]:
    below, above = _distances(values, intervals)
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": INK, "thickness": 1}


# Values


def _models(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    if results.get("base"):
        yield "base alone", BASE, results["base"]
    yield "fine-tuned", FINE_TUNED, results


def _types(results: Mapping[str, Any], scores: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (type, its scores) for every type that the fine-tuned model was scored on, entities first."""
    nothing = {"f1": 0.0, "f1_interval": [0.0, 0.0], "support": 0}
    for kind in KINDS:
        for name in results[f"{kind}_metrics"]["by_type"]:
            yield name, scores[f"{kind}_metrics"]["by_type"].get(name, nothing)


def _errors(results: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(name, found["count"]) for name, found in results["errors"].items()]


def _kind_of(error: str) -> str:
    return "relation" if error in _RELATION_ERRORS else "entity"


_RELATION_ERRORS = frozenset(name for name, meaning in ERRORS.items() if "relation" in meaning)


def _curves(state: Mapping[str, Any]) -> Iterator[tuple[str, str, list[tuple[int, float]]]]:
    for name, key, colour in (("training", "loss", BASE), ("validation", "eval_loss", FINE_TUNED)):
        points = [(entry["step"], entry[key]) for entry in state["history"] if key in entry]
        if points:
            yield name, colour, points


def _task_curve(state: Mapping[str, Any]) -> tuple[str, list[int], list[float]] | None:
    """Return title, steps and values of the task's figure that chose the checkpoint; None where loss did."""
    if not (chosen := state.get("task_metric")):
        return None
    key = f"eval_{chosen['name']}"
    entries = [entry for entry in state["history"] if key in entry]
    return chosen["title"], [entry["step"] for entry in entries], [entry[key] for entry in entries]


def _kept(state: Mapping[str, Any]) -> bool:
    return state.get("best_step") is not None


def _distances(values: list[float], intervals: list[list[float]]) -> tuple[list[float], list[float]]:
    """Return how far each interval reaches below and above its value; a percentile interval may lie beside it."""
    pairs = list(zip(values, intervals, strict=True))
    return [max(0.0, v - low) for v, (low, _) in pairs], [max(0.0, high - v) for v, (_, high) in pairs]


def _bin(row: Mapping[str, Any]) -> str:
    low, high = row["words"]
    return f"{low}–{high}" if high > low else str(low)


def _sample_size(results: Mapping[str, Any]) -> str:
    test_set = results["test_set"]
    kind = "synthetic examples" if test_set["synthetic"] else "examples"
    return f"n = {test_set['examples']} {kind}"
