"""Results, adapter and data to staged releases: the exact folders of a model and a dataset on the Hub."""

from odin_slm.pipelines.publishing.pipeline import create_pipeline

__all__ = ["create_pipeline"]
