"""Nodes of the registration."""

from pathlib import Path
from typing import Any

from odin_slm.config.parameters import EvaluationParams, PromotionParams, PublishingParams, TaskParams
from odin_slm.core.errors import required
from odin_slm.core.hashing import sha256_of_json
from odin_slm.inference.served_model import instructions
from odin_slm.models.base_model import BaseModel
from odin_slm.pipelines.evaluation.nodes import paired_test
from odin_slm.release.staging import base_id_of
from odin_slm.tracking.promotion import conclude
from odin_slm.tracking.registry import Candidate, Promotion


def gather_evidence(
    predictions: list[dict[str, Any]],
    evaluation_results: dict[str, Any],
    calibrator: dict[str, Any] | None,
    task: TaskParams,
    publishing: PublishingParams,
) -> dict[str, Any]:
    """Gather what was measured of a model.

    Returns:
        ``predictions``, ``metrics`` and ``calibrator``; of a checkpoint there are none, as these are the final
        adapter's.
    """
    if publishing.checkpoint is not None:
        return {"predictions": [], "metrics": {}, "calibrator": None}
    metrics: dict[str, float] = {}
    for metric in task.task().measures:
        metrics |= metric.with_interval(evaluation_results)
    return {"predictions": predictions, "metrics": metrics, "calibrator": calibrator or None}


def propose_model(
    model_release: Path,
    base_model: BaseModel,
    evidence: dict[str, Any],
    manifest: dict[str, Any] | None,
    task: TaskParams,
    publishing: PublishingParams,
) -> Candidate:
    """Propose the staged model as a version of the registry; what may not be released is not registered either."""
    manifest = required(manifest, "manifest.json")
    return Candidate(
        folder=model_release,
        base=base_model,
        base_id=base_id_of(base_model, publishing.base_model_id),
        instructions=instructions(task.task(), manifest),
        task=task.task(),
        experiment=publishing.experiment,
        manifest_sha256=sha256_of_json(manifest),
        **evidence,
    )


def promote_model(
    registered_model: dict[str, Any],
    promotion: dict[str, Any],
    champion_predictions: list[dict[str, Any]],
    task: TaskParams,
    evaluation: EvaluationParams,
    params: PromotionParams,
) -> Promotion:
    """Say whether the registered version becomes champion."""
    return Promotion(
        version=registered_model["version"],
        decision=conclude(promotion, force=params.force, reason=params.reason),
        task=task.task(),
        test=paired_test(evaluation),
        champion_predictions=champion_predictions,
    )
