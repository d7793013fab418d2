"""Figures of confidences: reliability before and after calibration, and risk against coverage.

Drawn from ``evaluation_results["confidence"]`` alone (see :func:`odin_slm.tasks.extraction.calibration.assess`): Plotly
for Kedro-Viz, matplotlib for the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from odin_slm.tasks.extraction.metrics import KINDS
from odin_slm.tasks.extraction.reporting.drawing import BASE, COLOURS, INK, plotly_figure, plural, styled, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure as PlotlyFigure

_NOTHING = "The predictions hold no confidences."
_SIDE, _HEIGHT = 3.6, 3.4
"""Inches of one panel."""


def plot_reliability(results: Mapping[str, Any]) -> PlotlyFigure:
    """Draw the share of right extractions against their confidence; on the diagonal both are equal."""
    figure = plotly_figure("Reliability of confidences", "confidence", "share right")
    found = results.get("confidence")
    if not found:
        return figure.add_annotation(text=_NOTHING, showarrow=False)
    figure.add_scatter(name="ideal", x=[0, 1], y=[0, 1], mode="lines", line={"color": INK, "dash": "dot", "width": 1})
    for kind in KINDS:
        for when, dash in (("before", "dash"), ("after", "solid")):
            bins = found[kind][when]["bins"]
            figure.add_scatter(
                name=f"{plural(kind)}, {_moment(found[kind], when)}",
                x=[b["confidence"] for b in bins],
                y=[b["right"] for b in bins],
                mode="lines+markers",
                line={"color": COLOURS[kind], "dash": dash},
                opacity=0.45 if when == "before" else 1,
                customdata=[b["n"] for b in bins],
                hovertemplate="confidence %{x:.2f}, right %{y:.2f}, %{customdata} extractions<extra></extra>",
            )
    return figure.update_xaxes(range=[0, 1]).update_yaxes(range=[0, 1])


def plot_risk_coverage(results: Mapping[str, Any]) -> PlotlyFigure:
    """Draw the share of wrong extractions among those kept against the share kept, the surest first."""
    figure = plotly_figure(
        "Risk against coverage", "coverage: share of the extractions kept", "risk: share of them wrong"
    )
    found = results.get("confidence")
    if not found:
        return figure.add_annotation(text=_NOTHING, showarrow=False)
    for kind in KINDS:
        points = found[kind]["risk_coverage"]
        figure.add_scatter(
            name=_area(kind, found[kind]),
            x=[p["coverage"] for p in points],
            y=[p["risk"] for p in points],
            mode="lines+markers",
            line_color=COLOURS[kind],
            customdata=[p["confidence"] for p in points],
            hovertemplate="confidence ≥ %{customdata:.2f}: %{x:.0%} kept, %{y:.1%} of them wrong<extra></extra>",
        )
    return figure.update_xaxes(range=[0, 1]).update_yaxes(rangemode="tozero")


def draw_confidence(results: Mapping[str, Any]) -> dict[str, str]:
    """Return ``reliability`` and ``risk_coverage`` as SVG texts, equal for equal values; none without confidences."""
    from matplotlib.figure import Figure

    found = results.get("confidence")
    if not found:
        return {}
    drawn = {}
    with styled():
        figure = Figure(figsize=(2 * _SIDE, _HEIGHT), layout="constrained")
        for kind, ax in zip(KINDS, figure.subplots(1, 2), strict=True):
            _draw_reliability(ax, kind, found[kind])
        drawn["reliability"] = svg(figure)
        figure = Figure(figsize=(2 * _SIDE, _HEIGHT), layout="constrained")
        _draw_risk_coverage(figure.subplots(), found)
        drawn["risk_coverage"] = svg(figure)
    return drawn


def _draw_reliability(ax: Axes, kind: str, found: Mapping[str, Any]) -> None:
    ax.plot([0, 1], [0, 1], color=INK, lw=1, ls=":")
    for when, colour in (("before", BASE), ("after", COLOURS[kind])):
        bins = found[when]["bins"]
        x, y = [b["confidence"] for b in bins], [b["right"] for b in bins]
        ax.plot(x, y, color=colour, label=_moment(found, when))
        ax.scatter(x, y, [8 + 120 * b["n"] / found["n"] for b in bins], color=colour)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share right")
    ax.set_title(f"{plural(kind).capitalize()}, n = {found['n']:,}")
    ax.legend(loc="upper left")


def _draw_risk_coverage(ax: Axes, found: Mapping[str, Any]) -> None:
    for kind in KINDS:
        points = found[kind]["risk_coverage"]
        x, y = [p["coverage"] for p in points], [p["risk"] for p in points]
        ax.plot(x, y, color=COLOURS[kind], label=_area(kind, found[kind]))
    ax.set(xlabel="coverage: share of the extractions kept, the surest first", ylabel="risk: share of them wrong")
    ax.set(title="Risk against coverage", xlim=(0, 1))
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper left")


def _moment(found: Mapping[str, Any], when: str) -> str:
    method = found["calibration"]["method"]
    name = "raw" if when == "before" or method == "none" else "calibrated"
    ece = found[when]["ece"]
    return name if ece is None else f"{name}, ECE {ece:.3f}"


def _area(kind: str, found: Mapping[str, Any]) -> str:
    return plural(kind) if found["aurc"] is None else f"{plural(kind)}, AURC {found['aurc']:.3f}"
