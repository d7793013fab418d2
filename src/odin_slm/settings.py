"""Project settings; Kedro reads the names in capitals."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from odin_slm.config import ProjectConfigLoader
from odin_slm.hooks import ArtifactsHook, EvaluationMetricsHook, SummaryHook, TrackingHook

# omegaconf 2.4 deprecates the call that kedro 1.7 and kedro-mlflow 2.0.3 still make.
warnings.filterwarnings("ignore", message=r"register_new_resolver\(\) is deprecated", category=UserWarning)

for _name, _value in {
    # Idle OpenMP workers that spin take the core from the one that works. Read when torch is imported.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # Nothing reports its use to anybody.
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}.items():
    os.environ.setdefault(_name, _value)


def _project(relative: str = "") -> str:
    """Return the absolute path of something in the project's folder, wherever the process was started.

    ``ODIN_SLM_HOME`` names another folder; the tests put their throw-away projects there.
    """
    root = os.environ.get("ODIN_SLM_HOME") or Path(__file__).resolve().parents[2]
    return (Path(root) / relative).as_posix()


HOOKS = (ArtifactsHook(), EvaluationMetricsHook(), SummaryHook(), TrackingHook())
# TrackingHook drives kedro-mlflow's own hook.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-mlflow", "kedro_mlflow")

CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "custom_resolvers": {"project": _project},
    # An environment changes single keys; the default would drop the rest of the file's top-level key.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft", "globals": "soft"},
}
