"""Figures of a combined dataset: what each split holds of each label, and how long its records are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLOURS = {"train": "#1b6ca8", "validation": "#c8553d", "test": "#e0a458"}

_NOT_LABELS = ("words_of_input", "tokens")


def plot_lengths(statistics: Mapping[str, Any]) -> Any:
    """Draw how many records have how many tokens, prompt and completion together, split by split.

    Args:
        statistics: Split -> source (or ``all``) -> counts, as the combination counts them.

    Returns:
        A Plotly figure of one line per split, as shares of its records.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for split, sources in statistics.items():
        tokens, records = sources["all"]["tokens"], max(1, sources["all"]["records"])
        lows = [int(low) for low in tokens["histogram"]]
        shares = [100 * n / records for n in tokens["histogram"].values()]
        name = f"{split} (median {tokens['median']}, longest {tokens['longest']})"
        figure.add_scatter(name=name, x=lows, y=shares, mode="lines+markers", line={"color": COLOURS[split]})
    return figure.update_layout(
        title="Lengths of the records, prompt and completion",
        template="plotly_white",
        xaxis={"title": "tokens (bins of 32, by their lower end)", "rangemode": "tozero"},
        yaxis={"title": "% of the records", "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.08},
    )


def plot_data(statistics: Mapping[str, Any]) -> Any:
    """Draw, per split, the share of the records of each source and of the gold labels of each type.

    Args:
        statistics: Split -> source (or ``all``) -> counts, as the combination counts them.

    Returns:
        A Plotly figure of grouped bars on a logarithmic axis, as labels differ by orders of magnitude.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for split, sources in statistics.items():
        rows = {f"records: {source}": counts["records"] for source, counts in sources.items() if source != "all"}
        for name, counts in sources["all"].items():
            if name.startswith("without_"):
                rows[f"records without {name.removeprefix('without_')}"] = counts
            elif name not in _NOT_LABELS and isinstance(counts, dict):
                rows |= counts
        figure.add_bar(name=split, x=list(rows), y=list(rows.values()), marker_color=COLOURS[split])
    return figure.update_layout(
        title="Records and gold labels per split",
        template="plotly_white",
        barmode="group",
        yaxis={"type": "log", "title": "count"},
        legend={"orientation": "h", "y": 1.08},
    )
