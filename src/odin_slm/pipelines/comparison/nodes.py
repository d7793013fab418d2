"""Nodes of the comparison pipeline."""

from typing import Any

from odin_slm.config.parameters import ComparisonParams, TaskParams
from odin_slm.tracking.comparison import compare, comparison_text, plot_comparison


def compare_runs(
    tracked_runs: list[dict[str, Any]], task: TaskParams, params: ComparisonParams
) -> list[dict[str, Any]]:
    """Put the runs side by side; see :func:`odin_slm.tracking.comparison.compare`."""
    return compare(tracked_runs, task.task().headline, params.experiment)


def write_comparison(comparison: list[dict[str, Any]], task: TaskParams) -> str:
    """Write the comparison as a Markdown table."""
    return comparison_text(comparison, task.task().headline)


def draw_comparison(comparison: list[dict[str, Any]], task: TaskParams) -> Any:
    """Draw the headline figures of the runs with their intervals."""
    return plot_comparison(comparison, task.task().headline)
