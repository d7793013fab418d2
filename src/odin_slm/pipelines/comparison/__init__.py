"""Tracked runs to a table and a figure of all of them."""

from odin_slm.pipelines.comparison.pipeline import create_pipeline

__all__ = ["create_pipeline"]
