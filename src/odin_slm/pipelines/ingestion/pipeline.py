"""Wiring of the ingestion pipeline: one namespace per corpus."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.ingestion.nodes import parser_of, write_records

CORPORA = ("ade", "bc5cdr", "biored")


def create_pipeline() -> Pipeline:
    """Return ingestion: ``<corpus>_raw`` -> ``<corpus>_documents`` -> ``<corpus>_records``, for every corpus."""
    return sum((_corpus_pipeline(corpus) for corpus in CORPORA), Pipeline([]))


def _corpus_pipeline(corpus: str) -> Pipeline:
    return Pipeline(
        [
            Node(
                func=parser_of(corpus),
                inputs=["raw", "params:ingestion"],
                outputs=["documents", "parse_report"],
                name="parse_corpus",
            ),
            Node(
                func=write_records,
                inputs=["documents", "base_model", "params:ingestion"],
                outputs=["records", "records_report"],
                name="write_records",
            ),
        ],
        namespace=corpus,
        inputs={"raw": f"{corpus}_raw", "base_model": "base_model"},
        outputs={name: f"{corpus}_{name}" for name in ("documents", "parse_report", "records", "records_report")},
        parameters={"params:ingestion": "params:ingestion"},
        tags=["ingestion", corpus],
    )
