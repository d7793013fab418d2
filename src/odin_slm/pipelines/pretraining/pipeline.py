"""Wiring of the pretraining pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm import corpora
from odin_slm.pipelines import combination, ingestion
from odin_slm.pipelines.pretraining import nodes


def create_pipeline() -> Pipeline:
    """Return pretraining: raw corpora and texts -> documents and splits -> base model folder.

    Documents and splits come from the very nodes that the data pipelines run, so that the base is kept from the same
    validation and test documents.
    """
    data = ingestion.create_pipeline() + combination.create_pipeline()
    return data.to_outputs("splits") + Pipeline(
        [
            Node(
                func=nodes.select_training_documents,
                inputs=["splits", *(f"{corpus}_documents" for corpus in corpora.CORPORA)],
                outputs="pretraining_documents",
                name="select_training_documents",
            ),
            Node(
                func=nodes.train_base,
                inputs=["pretraining_documents", "pretraining_texts", "pretraining_work", "params:pretraining"],
                outputs=["pretrained_base", "pretraining_state"],
                name="train_base",
            ),
            Node(
                func=nodes.test_base,
                inputs=["pretrained_base", "pretraining_documents", "pretraining_texts", "params:pretraining"],
                outputs="base_evaluation",
                name="test_base",
            ),
            Node(
                func=nodes.assemble_base,
                inputs=[
                    "pretrained_base",
                    "pretraining_documents",
                    "pretraining_state",
                    "base_evaluation",
                    "params:pretraining",
                ],
                outputs="embedded_base",
                name="assemble_base",
            ),
        ],
        tags=["pretraining"],
    )
