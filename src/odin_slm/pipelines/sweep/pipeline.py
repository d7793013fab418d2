"""Wiring of the sweep pipeline."""

from kedro.pipeline import Node, Pipeline

from odin_slm.pipelines.sweep.nodes import compare_trainings, plan_sweep, write_environment


def create_pipeline() -> Pipeline:
    """Return the sweep: base, train and val -> sweep_results and sweep_environment."""
    return Pipeline(
        [
            Node(
                func=plan_sweep,
                inputs=["params:training", "params:sweep", "params:task"],
                outputs="sweep_plan",
                name="plan_sweep",
            ),
            Node(
                func=compare_trainings,
                inputs=["base_model", "train", "val", "sweep_work", "sweep_plan"],
                outputs="sweep_results",
                name="compare_trainings",
            ),
            Node(
                func=write_environment,
                inputs=["sweep_results", "base_model", "params:training", "params:sweep"],
                outputs="sweep_environment",
                name="write_environment",
            ),
        ],
        tags=["sweep"],
    )
