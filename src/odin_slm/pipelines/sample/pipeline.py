"""Generator to sample corpora."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.sample.nodes import write_sample


def create_pipeline() -> Pipeline:
    """Return the pipeline that writes the synthetic sample."""
    return Pipeline(
        [
            Node(
                func=write_sample,
                inputs="params:sample",
                outputs="sample_corpora",
                name="write_sample",
                tags=["sample"],
            ),
        ]
    )
