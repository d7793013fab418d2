"""Extraction: documents of any kind and number -> Parquet shards."""

from odin_slm.pipelines.extraction.pipeline import create_pipeline

__all__ = ["create_pipeline"]
