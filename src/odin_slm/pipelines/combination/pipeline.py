"""Wiring of the combination pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.dataprep.figures import plot_data, plot_lengths
from odin_slm.pipelines.combination.nodes import (
    assess_quality,
    check_leakage,
    clean_records,
    combine_records,
    count_data,
    describe_test_set,
    gather,
    gather_reports,
    gather_sources,
    place_documents,
    write_manifest,
)
from odin_slm.pipelines.ingestion.pipeline import sources


def create_pipeline() -> Pipeline:
    """Return combination: documents and records of all corpora -> train, val, test and their reports."""
    return Pipeline([_gathering(), _splits(), _reports(), _figures()], tags=["combination"])


def _gathering() -> Pipeline:
    names = sources()
    return Pipeline(
        [
            Node(
                func=gather,
                inputs=[f"{name}_documents" for name in names],
                outputs="documents",
                name="gather_documents",
            ),
            Node(
                func=gather,
                inputs=[f"{name}_records" for name in names],
                outputs="records",
                name="gather_records",
            ),
            Node(
                func=gather_reports,
                inputs=[f"{name}_parse_report" for name in names],
                outputs="parse_reports",
                name="gather_reports",
            ),
            Node(
                func=gather_sources,
                inputs=["parse_reports", "params:ingestion"],
                outputs="data_sources",
                name="gather_sources",
            ),
        ]
    )


def _splits() -> Pipeline:
    return Pipeline(
        [
            Node(
                func=place_documents,
                inputs=["documents", "params:combination", "params:ingestion"],
                outputs="splits",
                name="place_documents",
            ),
            Node(
                func=combine_records,
                inputs=["records", "splits", "params:combination"],
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
                inputs=["train", "val", "test", "splits", "data_sources", "params:combination"],
                outputs="manifest",
                name="write_manifest",
            ),
        ]
    )


def _reports() -> Pipeline:
    return Pipeline(
        [
            Node(
                func=describe_test_set,
                inputs=["documents", "splits", "manifest", "params:combination"],
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
        ]
    )


def _figures() -> Pipeline:
    return Pipeline(
        [
            Node(func=plot_data, inputs="data_statistics", outputs="data_figure", name="draw_data"),
            Node(func=plot_lengths, inputs="data_statistics", outputs="lengths_figure", name="draw_lengths"),
        ],
        namespace="data_figures",
        inputs={"data_statistics"},
        outputs={"data_figure", "lengths_figure"},
    )
