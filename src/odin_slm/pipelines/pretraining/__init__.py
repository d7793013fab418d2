"""Training documents and further text to the embedded base."""

from odin_slm.pipelines.pretraining.pipeline import create_pipeline

__all__ = ["create_pipeline"]
