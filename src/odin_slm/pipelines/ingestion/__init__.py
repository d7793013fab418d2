"""Raw corpora to documents to instruction records."""

from odin_slm.pipelines.ingestion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
