"""Wiring of the publishing pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.publishing.nodes import (
    conclude_publication,
    describe_merged_model,
    plan_dataset_publication,
    plan_merged_model,
    plan_model_publication,
    replay_predictions,
    stage_dataset_release,
    stage_model_release,
)


def create_pipeline() -> Pipeline:
    """Return publishing: adapter, results, data and their reports -> two staged releases -> the Hub, if asked for."""
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
                func=plan_dataset_publication,
                inputs=["dataset_release", "params:publishing"],
                outputs="dataset_publication",
                name="plan_dataset_publication",
            ),
            Node(
                func=replay_predictions,
                inputs=["base_model", "adapter", "training_work", "test_data", "predictions", "params:publishing"],
                outputs="replayed_predictions",
                name="replay_predictions",
            ),
            Node(
                func=stage_model_release,
                inputs=[
                    "adapter",
                    "training_work",
                    "base_model",
                    "evaluation_results",
                    "predictions",
                    "promotion",
                    "replayed_predictions",
                    "training_state",
                    "manifest",
                    "leakage",
                    "quality",
                    "dataset_publication",
                    "params:publishing",
                ],
                outputs="model_release",
                name="stage_model_release",
            ),
            Node(
                func=plan_merged_model,
                inputs=[
                    "model_release",
                    "adapter",
                    "base_model",
                    "test_data",
                    "predictions",
                    "params:publishing",
                    "params:evaluation",
                ],
                outputs="merged_model",
                name="plan_merged_model",
            ),
            Node(
                func=describe_merged_model,
                inputs=["merged_model", "params:publishing"],
                outputs="merging_report",
                name="describe_merged_model",
            ),
            Node(
                func=plan_model_publication,
                inputs=["model_release", "base_model", "replayed_predictions", "params:publishing"],
                outputs="model_publication",
                name="plan_model_publication",
            ),
            Node(
                func=conclude_publication,
                inputs=["dataset_publication", "model_publication", "params:publishing"],
                outputs="publication",
                name="conclude_publication",
            ),
        ],
        tags=["publishing"],
    )
