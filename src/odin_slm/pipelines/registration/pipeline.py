"""Wiring of the registration."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.evaluation.pipeline import RESCORING
from odin_slm.pipelines.registration.nodes import propose_model


def create_pipeline() -> Pipeline:
    """Return registration: the staged model, its predictions and figures -> ``registered_model``."""
    return Pipeline(
        [
            RESCORING,
            Node(
                func=propose_model,
                inputs=[
                    "model_release",
                    "base_model",
                    "predictions",
                    "champion_predictions",
                    "evaluation_results",
                    "calibrator",
                    "manifest",
                    "params:task",
                    "params:publishing",
                    "params:evaluation",
                    "params:promotion",
                ],
                outputs="registered_model",
                name="propose_model",
            ),
        ],
        tags=["publishing"],
    )
