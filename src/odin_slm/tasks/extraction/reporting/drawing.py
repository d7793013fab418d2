"""What the figures of extraction have in common: colours, style, and how they are saved.

Figures are drawn twice, by Plotly for Kedro-Viz and by matplotlib for the report and the overview: Plotly draws by a
script of 4.6 MB, which a report of 0.2 MB would have to carry to be one file that can be mailed, printed and read
anywhere; and Kedro-Viz previews Plotly alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure

FINE_TUNED, BASE = "#1b6ca8", "#b4bfca"
COLOURS = {"entity": "#1b6ca8", "relation": "#c8553d"}
INK, FAINT = "#1f2933", "#dfe5ea"


def svg(figure: Figure) -> str:
    """Return a figure as an SVG text without a date."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of the report inside the block."""
    import matplotlib

    fonts = ["DejaVu Sans", "Helvetica", "Arial"]
    with matplotlib.rc_context(
        {
            "font.family": "sans-serif",
            "font.sans-serif": fonts,
            "font.size": 9,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": FAINT,
            "axes.titlelocation": "left",
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": FAINT,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.bottom": False,
            "ytick.left": False,
            "legend.frameon": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "odin-slm",
        }
    ):
        yield


def plotly_figure(title: str, x: str, y: str) -> PlotlyFigure:
    """Return an empty figure with titles of itself and its axes."""
    from plotly.graph_objects import Figure

    return Figure().update_layout(
        template="plotly_white",
        title=title,
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.08},
        font={"color": INK},
    )


def plural(kind: str) -> str:
    """Return what several of a kind are called."""
    return {"entity": "entities", "relation": "relations"}[kind]
