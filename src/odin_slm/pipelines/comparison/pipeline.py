"""Wiring of the comparison pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.comparison.nodes import compare_runs, draw_comparison, write_comparison


def create_pipeline() -> Pipeline:
    """Return comparison: the tracked runs of an experiment -> table and figure."""
    return Pipeline(
        [
            Node(
                func=compare_runs,
                inputs=["tracked_runs", "params:task", "params:comparison"],
                outputs="comparison",
                name="compare_runs",
            ),
            Node(
                func=write_comparison,
                inputs=["comparison", "params:task"],
                outputs="comparison_table",
                name="write_comparison",
            ),
            Node(
                func=draw_comparison,
                inputs=["comparison", "params:task"],
                outputs="comparison_figure",
                name="draw_comparison",
            ),
        ],
        tags=["comparison"],
    )
