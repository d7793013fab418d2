"""Wiring of the extraction pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.extraction.nodes import extract_documents


def create_pipeline() -> Pipeline:
    """Return extraction: documents and a model -> shards with offsets and provenance."""
    return Pipeline(
        [
            Node(
                func=extract_documents,
                inputs=["extraction_documents", "extraction_model", "params:extraction"],
                outputs="extractions",
                name="extract_documents",
            ),
        ],
        tags=["extraction"],
    )
