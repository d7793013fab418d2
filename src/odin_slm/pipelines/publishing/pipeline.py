"""Wiring of the publishing pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.publishing.nodes import (
    conclude_publication,
    describe_merged_model,
    plan_dataset_publication,
    plan_merged_model,
    plan_model_publication,
    rehearse_model_release,
    replay_predictions,
    stage_dataset_release,
    stage_model_release,
)

_MODEL = [
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
]
"""What a model release is made of."""


def create_pipeline() -> Pipeline:
    """Return publishing: adapter, results, data and their reports -> two staged releases -> the Hub, if asked for.

    The nodes tagged ``dataset`` publish the data alone.
    """
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
                    "params:task",
                    "params:publishing",
                ],
                outputs="dataset_release",
                name="stage_dataset_release",
                tags=["dataset"],
            ),
            Node(
                func=replay_predictions,
                inputs=[
                    "base_model",
                    "adapter",
                    "training_work",
                    "test_data",
                    "predictions",
                    "params:task",
                    "params:publishing",
                ],
                outputs="replayed_predictions",
                name="replay_predictions",
            ),
            Node(
                func=rehearse_model_release,
                inputs=["params:publishing", "params:task", *_MODEL],
                outputs="model_rehearsal",
                name="rehearse_model_release",
            ),
            Node(
                func=plan_dataset_publication,
                inputs=["dataset_release", "model_rehearsal", "params:publishing"],
                outputs="dataset_publication",
                name="plan_dataset_publication",
                tags=["dataset"],
            ),
            Node(
                func=stage_model_release,
                inputs=[*_MODEL, "dataset_publication", "params:task", "params:publishing"],
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
                    "params:task",
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
                inputs=[
                    "model_release",
                    "base_model",
                    "replayed_predictions",
                    "dataset_publication",
                    "params:publishing",
                ],
                outputs="model_publication",
                name="plan_model_publication",
            ),
            Node(
                func=conclude_publication,
                inputs=["dataset_publication", "model_publication", "params:publishing"],
                outputs="publication",
                name="conclude_publication",
                tags=["dataset"],
            ),
        ],
        tags=["publishing"],
    )
