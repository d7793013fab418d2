"""Experiments from before to tracked runs."""

from odin_slm.pipelines.backfill.pipeline import create_pipeline

__all__ = ["create_pipeline"]
