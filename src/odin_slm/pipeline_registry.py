"""Project pipelines."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from odin_slm.pipelines import (
    backfill,
    combination,
    comparison,
    evaluation,
    extraction,
    ingestion,
    join_training,
    pretraining,
    publishing,
    registration,
    review,
    sample,
    sweep,
    training,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Map each runnable name to its pipeline.

    ``__default__`` goes from the raw corpora to a staged release. ``pretraining`` (it makes the embedded base) and
    ``sample`` (it writes the embedded corpora) make what the repository ships, ``extraction`` reads documents with a
    model, ``review`` chooses documents to correct, ``sweep`` compares trainings, ``join_training`` lends a machine to
    the training of another, ``backfill`` and ``comparison`` work on the tracking store; these run by name only.
    """
    stages = {
        "ingestion": ingestion.create_pipeline(),
        "combination": combination.create_pipeline(),
        "training": training.create_pipeline(),
        "evaluation": evaluation.create_pipeline(),
        "publishing": publishing.create_pipeline() + registration.create_pipeline(),
    }
    return {
        **stages,
        "data": stages["ingestion"] + stages["combination"],
        "backfill": backfill.create_pipeline(),
        "comparison": comparison.create_pipeline(),
        "extraction": extraction.create_pipeline(),
        "join_training": join_training.create_pipeline(),
        "pretraining": pretraining.create_pipeline(),
        "review": review.create_pipeline(),
        "sample": sample.create_pipeline(),
        "sweep": sweep.create_pipeline(),
        "__default__": sum(stages.values(), Pipeline([])),
    }
