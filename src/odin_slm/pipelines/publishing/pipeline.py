"""Wiring of the publishing pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.publishing.nodes import (
    conclude_publication,
    describe_merged_model,
    draft_model_release,
    dry_run_model_release,
    gather_data_reports,
    gather_model_evidence,
    gather_model_files,
    gather_reference_answers,
    judge_data,
    judge_model,
    plan_dataset_publication,
    plan_merged_model,
    plan_model_publication,
    reproduce_predictions,
    select_adapter,
    set_thresholds,
    settle_license,
    stage_dataset_release,
    stage_model_release,
    verify_splits,
    wait_for_publication,
)


def create_pipeline() -> Pipeline:
    """Return publishing: adapter, results, data and their reports -> two staged releases -> the Hub, if asked for.

    The nodes tagged ``dataset`` publish the data alone.
    """
    return Pipeline([_license(), *_dataset(), *_evidence(), *_model(), *_hub()], tags=["publishing"])


def _license() -> Node:
    """Base -> what its licence allows. It waits for nothing, so that a refusal comes before hours of training."""
    return Node(
        func=settle_license,
        inputs=["base_model", "params:publishing"],
        outputs="release_terms",
        name="settle_license",
    )


def _dataset() -> list[Node]:
    """Data and its reports -> the staged dataset."""
    return [
        Node(
            func=gather_data_reports,
            inputs=["manifest", "leakage", "quality", "data_statistics"],
            outputs="data_reports",
            name="gather_data_reports",
            tags=["dataset"],
        ),
        Node(
            func=judge_data,
            inputs=["data_reports", "params:publishing"],
            outputs="data_gate",
            name="judge_data",
            tags=["dataset"],
        ),
        Node(
            func=verify_splits,
            inputs=["train", "val", "test", "manifest"],
            outputs="verified_splits",
            name="verify_splits",
            tags=["dataset"],
        ),
        Node(
            func=stage_dataset_release,
            inputs=["verified_splits", "data_reports", "data_gate", "params:task", "params:publishing"],
            outputs="dataset_release",
            name="stage_dataset_release",
            tags=["dataset"],
        ),
    ]


def _evidence() -> list[Node]:
    """Adapter, results and reports -> what is known of the model, and the judgement on it."""
    return [
        Node(
            func=set_thresholds,
            inputs=["params:task", "params:publishing"],
            outputs="thresholds",
            name="set_thresholds",
        ),
        Node(
            func=select_adapter,
            inputs=["adapter", "training_work", "params:publishing"],
            outputs="released_adapter",
            name="select_adapter",
        ),
        Node(
            func=gather_reference_answers,
            inputs=["test_data", "predictions", "calibrator", "params:evaluation"],
            outputs="reference_answers",
            name="gather_reference_answers",
        ),
        Node(
            func=reproduce_predictions,
            inputs=["base_model", "released_adapter", "reference_answers", "params:task", "params:publishing"],
            outputs="reproduced_predictions",
            name="reproduce_predictions",
        ),
        Node(
            func=gather_model_evidence,
            inputs=[
                "evaluation_results",
                "predictions",
                "promotion",
                "reproduced_predictions",
                "training_state",
                "params:publishing",
            ],
            outputs="model_evidence",
            name="gather_model_evidence",
        ),
        Node(
            func=judge_model,
            inputs=[
                "model_evidence",
                "released_adapter",
                "data_reports",
                "data_gate",
                "thresholds",
                "params:publishing",
            ],
            outputs="gates",
            name="judge_model",
        ),
    ]


def _model() -> list[Node]:
    """Adapter, base and evidence -> files that are checked in a dry run, then staged, and merged if asked for."""
    return [
        Node(
            func=gather_model_files,
            inputs=[
                "base_model",
                "released_adapter",
                "data_reports",
                "calibrator",
                "release_terms",
                "params:task",
            ],
            outputs="model_files",
            name="gather_model_files",
        ),
        Node(
            func=draft_model_release,
            inputs=["model_files", "model_evidence", "data_reports", "gates", "params:task", "params:publishing"],
            outputs="model_draft",
            name="draft_model_release",
        ),
        Node(
            func=dry_run_model_release,
            inputs=["model_draft", "params:publishing"],
            outputs="model_dry_run",
            name="dry_run_model_release",
        ),
        Node(
            func=stage_model_release,
            inputs=["model_draft", "dataset_publication", "params:publishing"],
            outputs="model_release",
            name="stage_model_release",
        ),
        Node(
            func=wait_for_publication,
            inputs=["model_release", "publication"],
            outputs="release_to_export",
            name="wait_for_publication",
        ),
        Node(
            func=plan_merged_model,
            inputs=[
                "release_to_export",
                "released_adapter",
                "base_model",
                "reference_answers",
                "params:task",
                "params:publishing",
            ],
            outputs="merged_model",
            name="plan_merged_model",
        ),
        Node(
            func=describe_merged_model,
            inputs=["merged_model", "params:publishing"],
            outputs="merging_report",
            name="describe_merged_model",
        ),
    ]


def _hub() -> list[Node]:
    """Staged releases -> the Hub: the data first, so that the model names its commit."""
    return [
        Node(
            func=plan_dataset_publication,
            inputs=["dataset_release", "model_dry_run", "params:publishing"],
            outputs="dataset_publication",
            name="plan_dataset_publication",
            tags=["dataset"],
        ),
        Node(
            func=plan_model_publication,
            inputs=[
                "model_release",
                "base_model",
                "reproduced_predictions",
                "dataset_publication",
                "params:publishing",
            ],
            outputs="model_publication",
            name="plan_model_publication",
        ),
        Node(
            func=conclude_publication,
            inputs=["dataset_publication", "model_publication", "params:publishing"],
            outputs="publication",
            name="conclude_publication",
            tags=["dataset"],
        ),
    ]
