"""All tracked runs side by side: what each scored, on which data, and what changed against the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from odin_slm.core.errors import MissingInputError
from odin_slm.core.markdown import interval, score, table
from odin_slm.tasks.metric import Metric

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_COLOURS = ("#1b6ca8", "#c8553d", "#e0a458", "#4c956c")
_HASH = 12


def compare(
    runs: Sequence[Mapping[str, Any]], headline: Sequence[Metric], experiment: str | None = None
) -> list[dict[str, Any]]:
    """Return one row per run, the oldest first.

    Args:
        runs: ``run_id``, ``name``, ``status``, ``started`` (UTC), ``tags``, ``params``, ``metrics``.
        headline: The metrics that are compared.
        experiment: Take the runs of this experiment only; None takes all.

    Returns:
        ``run_id``, ``name``, ``experiment``, ``stage``, ``status``, ``started``, ``model_version``, ``data``: the hash
        of the manifest, each metric, without ``_micro``, with its ``…_interval`` (None where it was not measured), and
        ``changed``: parameter -> [before, now], against the last run of the table that has parameters. A run without
        parameters, as an evaluation of an earlier training, is judged by its parent's.

    Raises:
        MissingInputError: No run is of the experiment.
    """
    by_id = {run["run_id"]: run for run in runs}
    chosen = [run for run in runs if experiment in (None, run["tags"].get("experiment"))]
    if runs and not chosen:
        known = sorted({run["tags"].get("experiment", "") for run in runs} - {""})
        raise MissingInputError(
            f"no run is of the experiment {experiment!r}.",
            where="comparison.experiment",
            fix=f"Name one of {', '.join(known)}, or null for all." if known else "Set it to null for all runs.",
        )
    rows: list[dict[str, Any]] = []
    before: Mapping[str, str] = {}

    def order(run: Mapping[str, Any]) -> tuple[Any, ...]:
        # a training goes before its evaluation, which an earlier tool may have dated the same second
        return run["started"], "mlflow.parentRunId" in run["tags"], run["name"], run["run_id"]

    for run in sorted(chosen, key=order):
        tags, metrics = run["tags"], run["metrics"]
        parent = by_id.get(tags.get("mlflow.parentRunId", ""))
        params = run["params"] or (parent["params"] if parent else {})
        row = {name: run[name] for name in ("run_id", "name", "status", "started")}
        row |= {name: tags.get(name, "") for name in ("experiment", "stage", "model_version")}
        row["data"] = tags.get("data_manifest_sha256", "")
        for metric in headline:
            ends = [metrics.get(f"{metric.name}_{end}") for end in ("low", "high")]
            row[_key(metric)] = metrics.get(metric.name)
            row[f"{_key(metric)}_interval"] = None if None in ends else ends
        row["changed"] = _changes(before, params) if before and params else {}
        before = params or before
        rows.append(row)
    return rows


def comparison_text(rows: Sequence[Mapping[str, Any]], headline: Sequence[Metric]) -> str:
    """Return the comparison as a Markdown table."""
    titles = [f"{metric.title} [95 %]" for metric in headline]
    lines = []
    for row in rows:
        changed = "; ".join(f"{name}: {old} → {new}" for name, (old, new) in row["changed"].items())
        scores = [_score(row, _key(metric)) for metric in headline]
        named = f"{row['name']} {row['run_id'][:8]}"
        lines.append([named, row["started"], row["stage"], *scores, row["data"][:_HASH] or "–", changed or "–"])
    return table(["run", "started (UTC)", "stage", *titles, "data", "changed"], lines) + "\n"


def plot_comparison(rows: Sequence[Mapping[str, Any]], headline: Sequence[Metric]) -> Figure:
    """Draw the headline figures of every run that measured them, with their 95 % intervals."""
    from plotly.graph_objects import Figure

    figure = Figure()
    scored = [row for row in rows if row[_key(headline[0])] is not None]
    for metric, colour in zip(headline, cycle(_COLOURS), strict=False):
        values = [row[_key(metric)] for row in scored]
        ends = [row[f"{_key(metric)}_interval"] for row in scored]
        figure.add_scatter(
            name=metric.title,
            x=[f"{row['name']} {row['run_id'][:8]}" for row in scored],
            y=values,
            mode="markers",
            marker={"size": 10, "color": colour},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [end[1] - value if end else None for value, end in zip(values, ends, strict=True)],
                "arrayminus": [value - end[0] if end else None for value, end in zip(values, ends, strict=True)],
            },
            customdata=[[row["data"][:_HASH] or "–", row["started"]] for row in scored],
            hovertemplate="%{x}: %{y:.3f}<br>data %{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        )
    listed = " and ".join(metric.title for metric in headline)
    title = f"{listed[0].upper()}{listed[1:]} of the runs" if scored else f"No run has measured {listed}"
    return figure.update_layout(title=title, template="plotly_white")


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    names = sorted(before.keys() | now.keys())
    pairs = {name: [before.get(name, "–"), now.get(name, "–")] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _key(metric: Metric) -> str:
    return metric.name.removesuffix("_micro")


def _score(row: Mapping[str, Any], key: str) -> str:
    value, ends = row[key], row[f"{key}_interval"]
    if value is None:
        return "–"
    return f"{score(value)} {interval(ends)}" if ends else score(value)
