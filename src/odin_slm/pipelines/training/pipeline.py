"""Wiring of the training pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.training.nodes import train_adapter


def create_pipeline() -> Pipeline:
    """Return training: base, train and val -> adapter and training_state."""
    return Pipeline(
        [
            Node(
                func=train_adapter,
                inputs=["base_model", "train", "val", "training_work", "params:training"],
                outputs=["adapter", "training_state"],
                name="train_adapter",
            ),
        ],
        tags=["training"],
    )
