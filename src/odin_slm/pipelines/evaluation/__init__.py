"""Adapter and test set to predictions, scores, figures and a report."""

from odin_slm.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
