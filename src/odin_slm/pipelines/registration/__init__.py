"""A staged model to a version of the registry; part of publishing."""

from odin_slm.pipelines.registration.pipeline import create_pipeline

__all__ = ["create_pipeline"]
