"""Wiring of the evaluation pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.evaluation.nodes import (
    decide_promotion,
    draw_errors,
    draw_length_scores,
    draw_overview,
    draw_training_curve,
    draw_type_scores,
    generate_base_predictions,
    generate_predictions,
    score_predictions,
    select_test_set,
    write_report,
)


def create_pipeline() -> Pipeline:
    """Return evaluation: adapter and test set -> predictions -> results, figures, report."""
    return Pipeline(
        [
            Node(
                func=select_test_set,
                inputs=["test", "given_test", "test_context"],
                outputs="test_data",
                name="select_test_set",
            ),
            Node(
                func=generate_predictions,
                inputs=["base_model", "adapter", "test_data", "predictions_work", "params:evaluation"],
                outputs="predictions",
                name="generate_predictions",
            ),
            Node(
                func=generate_base_predictions,
                inputs=["base_model", "test_data", "predictions_work", "params:evaluation"],
                outputs="base_predictions",
                name="generate_base_predictions",
            ),
            Node(
                func=score_predictions,
                inputs=["predictions", "base_predictions", "seen_records", "params:evaluation"],
                outputs="evaluation_results",
                name="score_predictions",
            ),
            Node(
                func=decide_promotion,
                inputs=["predictions", "champion_predictions", "evaluation_results", "params:evaluation"],
                outputs="promotion",
                name="decide_promotion",
            ),
            Node(
                func=draw_type_scores,
                inputs="evaluation_results",
                outputs="type_scores_figure",
                name="draw_type_scores",
            ),
            Node(
                func=draw_errors,
                inputs="evaluation_results",
                outputs="errors_figure",
                name="draw_errors",
            ),
            Node(
                func=draw_length_scores,
                inputs="evaluation_results",
                outputs="length_scores_figure",
                name="draw_length_scores",
            ),
            Node(
                func=draw_training_curve,
                inputs="training_state",
                outputs="training_curve_figure",
                name="draw_training_curve",
            ),
            Node(
                func=draw_overview,
                inputs=["evaluation_results", "training_state"],
                outputs="overview_figure",
                name="draw_overview",
            ),
            Node(
                func=write_report,
                inputs=["evaluation_results", "predictions", "training_state", "promotion"],
                outputs="report",
                name="write_report",
            ),
        ],
        tags=["evaluation"],
    )
