"""Wiring of the combination pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.combination.nodes import (
    assess_quality,
    combine_records,
    count_data,
    draw_data,
    place_documents,
    write_manifest,
)


def create_pipeline() -> Pipeline:
    """Return combination: documents and records of all corpora -> train, val, test and their reports."""
    return Pipeline(
        [
            Node(
                func=place_documents,
                inputs=["ade_documents", "bc5cdr_documents", "biored_documents", "params:combination"],
                outputs="splits",
                name="place_documents",
            ),
            Node(
                func=combine_records,
                inputs=["ade_records", "bc5cdr_records", "biored_records", "splits", "params:combination"],
                outputs=["train", "val", "test", "leakage"],
                name="combine_records",
            ),
            Node(
                func=write_manifest,
                inputs=[
                    "train",
                    "val",
                    "test",
                    "splits",
                    "ade_parse_report",
                    "bc5cdr_parse_report",
                    "biored_parse_report",
                    "params:ingestion",
                    "params:combination",
                ],
                outputs="manifest",
                name="write_manifest",
            ),
            Node(
                func=assess_quality,
                inputs=["train", "val", "test", "leakage", "params:combination"],
                outputs="quality",
                name="assess_quality",
            ),
            Node(
                func=count_data,
                inputs=["train", "val", "test"],
                outputs="data_statistics",
                name="count_data",
            ),
            Node(
                func=draw_data,
                inputs="data_statistics",
                outputs="data_figure",
                name="draw_data",
            ),
        ],
        tags=["combination"],
    )
