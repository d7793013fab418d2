"""Trainings with varied parameters, and the best of them as an environment."""

from odin_slm.pipelines.sweep.pipeline import create_pipeline

__all__ = ["create_pipeline"]
