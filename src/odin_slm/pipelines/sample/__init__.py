"""The synthetic sample that stands in for the corpora."""

from odin_slm.pipelines.sample.pipeline import create_pipeline

__all__ = ["create_pipeline"]
