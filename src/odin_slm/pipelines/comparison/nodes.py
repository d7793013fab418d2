"""Nodes of the comparison pipeline."""

from typing import Any

from odin_slm.config.parameters import ComparisonParams
from odin_slm.tracking.comparison import compare, comparison_text, plot_comparison


def compare_runs(tracked_runs: list[dict[str, Any]], params: ComparisonParams) -> list[dict[str, Any]]:
    """Put the runs side by side; see :func:`odin_slm.tracking.comparison.compare`."""
    return compare(tracked_runs, params.experiment)


def write_comparison(comparison: list[dict[str, Any]]) -> str:
    """Write the comparison as a Markdown table."""
    return comparison_text(comparison)


def draw_comparison(comparison: list[dict[str, Any]]) -> Any:
    """Draw micro F1 of the runs with its intervals."""
    return plot_comparison(comparison)
