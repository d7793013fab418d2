"""Wiring of the evaluation pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.evaluation.nodes import (
    add_confidences,
    check_adapter,
    conclude_evaluation,
    decide_promotion,
    draw_figures,
    draw_overview,
    fit_calibration,
    generate_base_predictions,
    generate_calibration_predictions,
    generate_predictions,
    read_whole_documents,
    rescore_champion,
    score_documents,
    score_predictions,
    score_protocols,
    select_test_set,
    tune_adapter,
    write_report,
)

PROMOTION = Pipeline(
    [
        Node(
            func=rescore_champion,
            inputs=["predictions", "champion", "manifest", "params:evaluation", "params:promotion"],
            outputs="champion_predictions",
            name="rescore_champion",
        ),
        Node(
            func=decide_promotion,
            inputs=["predictions", "champion", "champion_predictions", "manifest", "params:task", "params:evaluation"],
            outputs="promotion",
            name="decide_promotion",
        ),
    ]
)
"""Predictions and champion -> ``promotion``; also publishing's, which may come when another model is champion."""


def create_pipeline() -> Pipeline:
    """Return evaluation: adapter and test set -> predictions -> results, promotion, figures, reports."""
    report = Node(
        func=write_report,
        inputs=[
            *("evaluation_results", "predictions", "training_state", "promotion"),
            *("params:task", "params:evaluation"),
        ],
        outputs="report",
        name="write_report",
    )
    conclusion = Node(
        func=conclude_evaluation,
        inputs=["evaluation_results", "training_state", "params:task", "params:evaluation"],
        outputs="final_report",
        name="conclude_evaluation",
    )
    stages = [_calibration(), _predictions(), _documents(), PROMOTION, _figures(), Pipeline([report, conclusion])]
    return Pipeline(stages, tags=["evaluation"])


def _calibration() -> Pipeline:
    return Pipeline(
        [
            Node(
                func=generate_calibration_predictions,
                inputs=["base_model", "adapter", "val", "predictions_work", "params:task", "params:evaluation"],
                outputs="calibration_predictions",
                name="generate_calibration_predictions",
            ),
            Node(
                func=fit_calibration,
                inputs=["calibration_predictions", "params:task", "params:evaluation", "adapter"],
                outputs="calibrator",
                name="fit_calibration",
            ),
        ],
        namespace="calibration",
        inputs={"base_model", "adapter", "val", "predictions_work"},
        outputs={"calibration_predictions", "calibrator"},
        parameters={"params:task", "params:evaluation"},
    )


def _predictions() -> Pipeline:
    return Pipeline(
        [
            Node(
                func=select_test_set,
                inputs=["test", "given_test", "test_context", "params:task"],
                outputs="test_data",
                name="select_test_set",
            ),
            Node(
                func=check_adapter,
                inputs=["adapter", "test_data", "training_state", "manifest"],
                outputs="checked_adapter",
                name="check_adapter",
            ),
            Node(
                func=tune_adapter,
                inputs=["checked_adapter", "calibrator"],
                outputs="tuned_adapter",
                name="tune_adapter",
            ),
            Node(
                func=generate_predictions,
                inputs=[
                    "base_model",
                    "tuned_adapter",
                    "test_data",
                    "predictions_work",
                    "params:task",
                    "params:evaluation",
                ],
                outputs="raw_predictions",
                name="generate_predictions",
            ),
            Node(
                func=add_confidences,
                inputs=["raw_predictions", "calibrator", "params:task"],
                outputs="predictions",
                name="add_confidences",
            ),
            Node(
                func=generate_base_predictions,
                inputs=["base_model", "test_data", "predictions_work", "params:task", "params:evaluation"],
                outputs="base_predictions",
                name="generate_base_predictions",
            ),
            Node(
                func=score_predictions,
                inputs=["predictions", "base_predictions", "train", "calibrator", "params:task", "params:evaluation"],
                outputs="prediction_scores",
                name="score_predictions",
            ),
        ]
    )


def _documents() -> Pipeline:
    return Pipeline(
        [
            Node(
                func=read_whole_documents,
                inputs=[
                    "base_model",
                    "tuned_adapter",
                    "test_data",
                    "raw_predictions",
                    "params:task",
                    "params:evaluation",
                ],
                outputs="document_predictions",
                name="read_whole_documents",
            ),
            Node(
                func=score_documents,
                inputs=["document_predictions", "params:task", "params:evaluation"],
                outputs="document_results",
                name="score_documents",
            ),
            Node(
                func=score_protocols,
                inputs=[
                    "prediction_scores",
                    "predictions",
                    "document_predictions",
                    "documents",
                    "params:task",
                    "params:evaluation",
                ],
                outputs="evaluation_results",
                name="score_protocols",
            ),
        ]
    )


def _figures() -> Pipeline:
    return Pipeline(
        [
            Node(
                func=draw_figures,
                inputs=["evaluation_results", "training_state", "params:task"],
                outputs="evaluation_figures",
                name="draw_figures",
            ),
            Node(
                func=draw_overview,
                inputs=["evaluation_results", "training_state", "params:task"],
                outputs="overview_figure",
                name="draw_overview",
            ),
        ],
        namespace="figures",
        inputs={"evaluation_results", "training_state"},
        outputs={"evaluation_figures", "overview_figure"},
        parameters={"params:task"},
    )
