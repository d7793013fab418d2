"""Wiring of the registration."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.evaluation.pipeline import PROMOTION
from odin_slm.pipelines.registration.nodes import gather_evidence, promote_model, propose_model


def create_pipeline() -> Pipeline:
    """Return registration: the staged model and its predictions -> ``registered_model``, ``champion_alias``."""
    own = Pipeline(
        [
            Node(
                func=gather_evidence,
                inputs=["predictions", "evaluation_results", "calibrator", "params:task", "params:publishing"],
                outputs="evidence",
                name="gather_evidence",
            ),
            Node(
                func=propose_model,
                inputs=["model_release", "base_model", "evidence", "manifest", "params:task", "params:publishing"],
                outputs="registered_model",
                name="propose_model",
            ),
            Node(
                func=promote_model,
                inputs=[
                    "registered_model",
                    "promotion",
                    "champion_predictions",
                    "params:task",
                    "params:evaluation",
                    "params:promotion",
                ],
                outputs="champion_alias",
                name="promote_model",
            ),
        ]
    )
    return Pipeline([PROMOTION, own], tags=["publishing"])
