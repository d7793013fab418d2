"""Wiring of the backfill pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.backfill.nodes import read_experiments, report_backfill


def create_pipeline() -> Pipeline:
    """Return backfill: folders of experiments -> tracked runs, and a report of what became of every folder."""
    return Pipeline(
        [
            Node(
                func=read_experiments,
                inputs="experiment_folders",
                outputs=["past_experiments", "past_runs"],
                name="read_experiments",
            ),
            Node(
                func=report_backfill,
                inputs=["past_experiments", "past_runs"],
                outputs="backfill_report",
                name="report_backfill",
            ),
        ],
        tags=["backfill"],
    )
