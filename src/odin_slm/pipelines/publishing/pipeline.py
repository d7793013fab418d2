"""Wiring of the publishing pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.publishing.nodes import stage_dataset_release, stage_model_release


def create_pipeline() -> Pipeline:
    """Return publishing: adapter, results, data and their reports -> ``model_release`` and ``dataset_release``."""
    return Pipeline(
        [
            Node(
                func=stage_dataset_release,
                inputs=[
                    "train",
                    "val",
                    "test",
                    "manifest",
                    "leakage",
                    "quality",
                    "data_statistics",
                    "params:publishing",
                ],
                outputs="dataset_release",
                name="stage_dataset_release",
            ),
            Node(
                func=stage_model_release,
                inputs=[
                    "adapter",
                    "base_model",
                    "evaluation_results",
                    "training_state",
                    "manifest",
                    "leakage",
                    "quality",
                    "params:publishing",
                ],
                outputs="model_release",
                name="stage_model_release",
            ),
        ],
        tags=["publishing"],
    )
