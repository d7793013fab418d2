"""All corpora to one leak-free dataset, with manifest, leakage and quality reports."""

from odin_slm.pipelines.combination.pipeline import create_pipeline

__all__ = ["create_pipeline"]
