"""Figures of the operating point: precision, recall and F1 on validation against bias and against threshold.

Drawn from ``evaluation_results["operating_point"]`` alone (see :func:`odin_slm.tasks.extraction.operating_point.fit`):
Plotly for Kedro-Viz, matplotlib for the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from odin_slm.tasks.extraction.metrics import KINDS
from odin_slm.tasks.extraction.reporting.drawing import COLOURS, INK, plotly_figure, plural, styled, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure as PlotlyFigure

_NOTHING = "No operating point was fitted."
_SIDE, _HEIGHT = 3.6, 2.9
"""Inches of one panel."""
_STYLES = {"precision": "--", "recall": ":", "f1": "-"}
_AXES = {"bias": "bias of ending a list", "threshold": "least confidence"}


def plot_operating_point(results: Mapping[str, Any]) -> PlotlyFigure:
    """Draw precision against recall on validation, along the biases and along the thresholds."""
    figure = plotly_figure("Operating point, on validation", "recall", "precision")
    point = results.get("operating_point")
    if not point:
        return figure.add_annotation(text=_NOTHING, showarrow=False)
    for kind in KINDS:
        found = point["validation"][kind]
        for name, dash in (("bias", "dot"), ("threshold", "solid")):
            curve = found[f"by_{name}"]
            figure.add_scatter(
                name=f"{plural(kind)}, by {name}",
                x=[one["recall"] for one in curve],
                y=[one["precision"] for one in curve],
                mode="lines+markers",
                line={"color": COLOURS[kind], "dash": dash},
                customdata=[[one[name], one["f1"]] for one in curve],
                hovertemplate=name + " %{customdata[0]:.2f}: F1 %{customdata[1]:.3f}<extra></extra>",
            )
        figure.add_scatter(
            name=f"{plural(kind)}, chosen",
            x=[found["chosen"]["recall"]],
            y=[found["chosen"]["precision"]],
            mode="markers",
            marker={"color": COLOURS[kind], "size": 14, "symbol": "star"},
        )
    return figure.update_xaxes(range=[0, 1]).update_yaxes(range=[0, 1])


def draw_operating_point(results: Mapping[str, Any]) -> dict[str, str]:
    """Return ``operating_point`` as an SVG text, equal for equal values; nothing without one."""
    from matplotlib.figure import Figure

    point = results.get("operating_point")
    if not point:
        return {}
    with styled():
        figure = Figure(figsize=(2 * _SIDE, 2 * _HEIGHT), layout="constrained")
        for row, kind in zip(figure.subplots(2, 2, sharey=True), KINDS, strict=True):
            for name, ax in zip(_AXES, row, strict=True):
                chosen = (point["end_bias"] or {}).get(kind, 0.0) if name == "bias" else point["threshold"][kind]
                _draw(ax, kind, name, point["validation"][kind][f"by_{name}"], chosen)
        return {"operating_point": svg(figure)}


def _draw(ax: Axes, kind: str, name: str, curve: list[Mapping[str, float]], chosen: float) -> None:
    for figure, style in _STYLES.items():
        x = [one[name] for one in curve]
        ax.plot(x, [one[figure] for one in curve], color=COLOURS[kind], ls=style, label=figure)
    ax.axvline(chosen, color=INK, lw=1)
    ax.set(ylim=(0, 1), xlabel=_AXES[name], title=f"{plural(kind).capitalize()}, chosen {chosen:.2f}")
    ax.legend(loc="lower left")
