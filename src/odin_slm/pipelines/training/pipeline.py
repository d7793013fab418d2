"""Wiring of the training pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.training.nodes import check_training, describe_task, train_adapter


def create_pipeline() -> Pipeline:
    """Return training: base, train and val -> training_preflight, adapter, training_state and adapter_task."""
    return Pipeline(
        [
            Node(
                func=check_training,
                inputs=["base_model", "params:task", "params:training"],
                outputs="training_preflight",
                name="check_training",
            ),
            Node(
                func=train_adapter,
                inputs=["base_model", "training_preflight", "train", "val", "training_work", "params:training"],
                outputs=["adapter", "training_state"],
                name="train_adapter",
            ),
            Node(
                func=describe_task,
                inputs=["adapter", "training_state", "train", "params:task"],
                outputs="adapter_task",
                name="describe_task",
            ),
        ],
        tags=["training"],
    )
