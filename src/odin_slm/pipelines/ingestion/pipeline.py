"""Wiring of the ingestion pipeline: one namespace per corpus."""

from kedro.pipeline import Node, Pipeline

from odin_slm import corpora
from odin_slm.pipelines.ingestion.nodes import parse_corpus, parse_own_corpora, write_records, write_synthetic


def sources() -> tuple[str, ...]:
    """Return the names of all corpora, those by configuration as ``own``; their datasets begin with these names."""
    return (*corpora.CORPORA, "own", "synthetic")


def create_pipeline() -> Pipeline:
    """Return ingestion: ``<corpus>_raw`` -> ``<corpus>_documents`` -> ``<corpus>_records``, for every corpus."""
    parsing = {
        corpus: Node(
            func=parse_corpus,
            inputs=["raw", "params:task", "params:ingestion"],
            outputs=["documents", "parse_report"],
            name="parse_corpus",
        )
        for corpus in corpora.CORPORA
    }
    parsing["own"] = Node(
        func=parse_own_corpora,
        inputs=["raw", "params:task", "params:ingestion"],
        outputs=["documents", "parse_report"],
        name="parse_own_corpora",
    )
    reports = [f"{corpus}_parse_report" for corpus in parsing]
    writing = Node(
        func=write_synthetic,
        inputs=["params:ingestion", *reports],
        outputs=["documents", "parse_report"],
        name="write_synthetic",
    )
    pipelines = [_corpus_pipeline(name, node, {"raw": f"{name}_raw"}) for name, node in parsing.items()]
    return sum(pipelines, _corpus_pipeline("synthetic", writing, {name: name for name in reports}))


def _corpus_pipeline(corpus: str, first: Node, inputs: dict[str, str]) -> Pipeline:
    return Pipeline(
        [
            first,
            Node(
                func=write_records,
                inputs=["documents", "base_model", "params:task", "params:ingestion"],
                outputs=["records", "records_report"],
                name="write_records",
            ),
        ],
        namespace=corpus,
        inputs={**inputs, "base_model": "base_model"},
        outputs={name: f"{corpus}_{name}" for name in ("documents", "parse_report", "records", "records_report")},
        parameters={"params:task": "params:task", "params:ingestion": "params:ingestion"},
        tags=["ingestion", corpus],
    )
