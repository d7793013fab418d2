"""Review: the documents that are worth correcting, with what the model says of them."""

from odin_slm.pipelines.review.pipeline import create_pipeline

__all__ = ["create_pipeline"]
