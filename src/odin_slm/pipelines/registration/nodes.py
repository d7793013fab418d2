"""Nodes of the registration."""

from pathlib import Path
from typing import Any

from odin_slm.config.parameters import EvaluationParams, PromotionParams, PublishingParams, TaskParams
from odin_slm.core.hashing import canonical_json, sha256_text
from odin_slm.inference.served_model import instructions
from odin_slm.models.base_model import BaseModel
from odin_slm.tracking.registry import Candidate


def propose_model(
    model_release: Path,
    base_model: BaseModel,
    predictions: list[dict[str, Any]],
    champion_predictions: list[dict[str, Any]],
    evaluation_results: dict[str, Any],
    calibrator: dict[str, Any] | None,
    manifest: dict[str, Any],
    task: TaskParams,
    publishing: PublishingParams,
    evaluation: EvaluationParams,
    promotion: PromotionParams,
) -> Candidate:
    """Propose the staged model as a version of the registry; what may not be released is not registered either.

    Args:
        model_release: The staged release.
        base_model: The base.
        predictions: Rows of the predictions file, which later models are compared with.
        champion_predictions: What a champion of other data has said to the same texts; may be empty.
        evaluation_results: Measured figures.
        calibrator: What the probabilities of its outputs are worth; None where there is none.
        manifest: What it was trained on.
        task: What it was taught.
        publishing: Names.
        evaluation: Options of the paired test.
        promotion: Whether it is promoted whatever the test says, and why.

    Returns:
        What the registry takes. A checkpoint comes without figures, predictions and calibrator: these are the final
        adapter's.
    """
    what = task.task()
    metrics: dict[str, float] = {}
    for metric in what.headline:
        low, high = evaluation_results["intervals"][metric.name]
        value = metric.value(evaluation_results)
        metrics |= {metric.name: value, f"{metric.name}_low": low, f"{metric.name}_high": high}
    measured = publishing.checkpoint is None
    return Candidate(
        folder=model_release,
        base=base_model,
        base_id=publishing.base_model_id if base_model.path and publishing.base_model_id else base_model.source,
        instructions=instructions(what, manifest),
        task=what,
        predictions=predictions if measured else [],
        metrics=metrics if measured else {},
        experiment=publishing.experiment,
        manifest_sha256=sha256_text(canonical_json(manifest)),
        calibrator=calibrator if measured else None,
        champion_predictions=champion_predictions if measured else [],
        test=paired_test(evaluation),
        force=promotion.force,
        reason=promotion.reason,
    )


def paired_test(evaluation: EvaluationParams) -> dict[str, Any]:
    """Return the options of :func:`odin_slm.tracking.promotion.decide`."""
    return {
        "significance": evaluation.significance,
        "resamples": evaluation.bootstrap_resamples,
        "seed": evaluation.seed,
    }
