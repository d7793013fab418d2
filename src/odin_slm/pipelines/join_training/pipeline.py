"""Wiring of the pipeline join_training."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.join_training.nodes import lend_processes


def create_pipeline() -> Pipeline:
    """Return the base, and a folder for checkpoints -> nothing; the first machine has the result."""
    return Pipeline(
        [
            Node(
                func=lend_processes,
                inputs=["base_model", "training_work", "params:training"],
                outputs=None,
                name="lend_processes",
            ),
        ],
        tags=["join_training"],
    )
