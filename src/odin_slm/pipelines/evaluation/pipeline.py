"""Wiring of the evaluation pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.evaluation.nodes import (
    clear_predictions_work,
    decide_promotion,
    draw_figures,
    draw_overview,
    fit_calibration,
    generate_base_predictions,
    generate_calibration_predictions,
    generate_predictions,
    rescore_champion,
    score_predictions,
    select_test_set,
    write_report,
)

RESCORING = Node(
    func=rescore_champion,
    inputs=["predictions", "champion", "data_manifest", "params:evaluation", "params:promotion"],
    outputs="champion_predictions",
    name="rescore_champion",
)
"""Also registration's, for a run of publishing alone."""


def create_pipeline() -> Pipeline:
    """Return evaluation: adapter and test set -> predictions -> results, figures, report."""
    return Pipeline(
        [
            Node(
                func=select_test_set,
                inputs=["test", "given_test", "test_context", "params:task"],
                outputs="test_data",
                name="select_test_set",
            ),
            Node(
                func=generate_calibration_predictions,
                inputs=[
                    "base_model",
                    "adapter",
                    "calibration_records",
                    "predictions_work",
                    "params:task",
                    "params:evaluation",
                ],
                outputs="calibration_predictions",
                name="generate_calibration_predictions",
            ),
            Node(
                func=fit_calibration,
                inputs=["calibration_predictions", "params:task", "params:evaluation"],
                outputs="calibrator",
                name="fit_calibration",
            ),
            Node(
                func=generate_predictions,
                inputs=[
                    "base_model",
                    "adapter",
                    "test_data",
                    "calibrator",
                    "predictions_work",
                    "params:task",
                    "params:evaluation",
                    "training_state",
                    "data_manifest",
                ],
                outputs="predictions",
                name="generate_predictions",
            ),
            Node(
                func=generate_base_predictions,
                inputs=["base_model", "test_data", "predictions_work", "params:task", "params:evaluation"],
                outputs="base_predictions",
                name="generate_base_predictions",
            ),
            Node(
                func=score_predictions,
                inputs=[
                    "predictions",
                    "base_predictions",
                    "seen_records",
                    "calibrator",
                    "params:task",
                    "params:evaluation",
                ],
                outputs="evaluation_results",
                name="score_predictions",
            ),
            Node(
                func=clear_predictions_work,
                inputs=["predictions", "base_predictions", "predictions_work"],
                outputs=None,
                name="clear_predictions_work",
            ),
            RESCORING,
            Node(
                func=decide_promotion,
                inputs=[
                    "predictions",
                    "champion",
                    "champion_predictions",
                    "data_manifest",
                    "evaluation_results",
                    "params:task",
                    "params:evaluation",
                ],
                outputs="promotion",
                name="decide_promotion",
            ),
            Node(
                func=draw_figures,
                inputs=["evaluation_results", "training_state", "params:task"],
                outputs="evaluation_figures",
                name="draw_figures",
            ),
            Node(
                func=draw_overview,
                inputs=["evaluation_results", "training_state"],
                outputs="overview_figure",
                name="draw_overview",
            ),
            Node(
                func=write_report,
                inputs=["evaluation_results", "predictions", "training_state", "promotion", "params:task"],
                outputs="report",
                name="write_report",
            ),
        ],
        tags=["evaluation"],
    )
