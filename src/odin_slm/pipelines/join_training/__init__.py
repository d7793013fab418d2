"""A machine to the training of another one."""

from odin_slm.pipelines.join_training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
