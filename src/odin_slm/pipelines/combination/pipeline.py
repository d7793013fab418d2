"""Wiring of the combination pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.combination.nodes import (
    assess_quality,
    check_leakage,
    clean_records,
    combine_records,
    count_data,
    describe_test_set,
    draw_data,
    draw_lengths,
    place_documents,
    write_manifest,
)
from odin_slm.pipelines.ingestion.pipeline import sources


def create_pipeline() -> Pipeline:
    """Return combination: documents and records of all corpora -> train, val, test and their reports."""
    names = sources()
    return Pipeline(
        [
            Node(
                func=place_documents,
                inputs=["params:combination", *(f"{name}_documents" for name in names)],
                outputs="splits",
                name="place_documents",
            ),
            Node(
                func=combine_records,
                inputs=["splits", "params:combination", *(f"{name}_records" for name in names)],
                outputs="combined",
                name="combine_records",
            ),
            Node(
                func=clean_records,
                inputs=["combined", "params:task", "params:combination"],
                outputs=["cleaned", "cleaning"],
                name="clean_records",
            ),
            Node(
                func=check_leakage,
                inputs=["cleaned", "splits", "params:task", "params:combination"],
                outputs=["train", "val", "test", "leakage"],
                name="check_leakage",
            ),
            Node(
                func=write_manifest,
                inputs=[
                    "train",
                    "val",
                    "test",
                    "splits",
                    "params:ingestion",
                    "params:combination",
                    *(f"{name}_parse_report" for name in names),
                ],
                outputs="manifest",
                name="write_manifest",
            ),
            Node(
                func=describe_test_set,
                inputs=["manifest", "splits", "params:combination", *(f"{name}_documents" for name in names)],
                outputs="test_context",
                name="describe_test_set",
            ),
            Node(
                func=assess_quality,
                inputs=["train", "val", "test", "leakage", "params:task", "params:combination"],
                outputs="quality",
                name="assess_quality",
            ),
            Node(
                func=count_data,
                inputs=["train", "val", "test", "base_model", "params:task"],
                outputs="data_statistics",
                name="count_data",
            ),
            Node(
                func=draw_data,
                inputs="data_statistics",
                outputs="data_figure",
                name="draw_data",
            ),
            Node(
                func=draw_lengths,
                inputs="data_statistics",
                outputs="lengths_figure",
                name="draw_lengths",
            ),
        ],
        tags=["combination"],
    )
