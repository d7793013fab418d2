"""Wiring of the review pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.review.nodes import choose_documents, gather_candidates, predict_candidates


def create_pipeline() -> Pipeline:
    """Return review: documents and a model -> those that are worth correcting, as files for an annotation tool."""
    return Pipeline(
        [
            Node(
                func=gather_candidates,
                inputs=["review_documents", "documents", "splits", "params:review", "params:extraction"],
                outputs="review_candidates",
                name="gather_candidates",
            ),
            Node(
                func=predict_candidates,
                inputs=["review_candidates", "extraction_model", "params:extraction"],
                outputs="review_predictions",
                name="predict_candidates",
            ),
            Node(
                func=choose_documents,
                inputs=[
                    "review_candidates",
                    "review_predictions",
                    "extraction_model",
                    "params:review",
                    "params:extraction",
                ],
                outputs="review",
                name="choose_documents",
            ),
        ],
        tags=["review"],
    )
