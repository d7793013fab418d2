"""Base and records to a LoRA adapter."""

from odin_slm.pipelines.training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
