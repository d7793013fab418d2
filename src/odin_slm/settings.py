"""Project settings; Kedro reads the names in capitals."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from odin_slm.config.loader import ProjectConfigLoader
from odin_slm.core.runtime_environment import prepare_process
from odin_slm.hooks import (
    ArtifactsHook,
    ErrorsHook,
    ResultsHook,
    SummaryHook,
    TrackingHook,
    WorkFolderHook,
)

# omegaconf 2.4 deprecates the call that kedro 1.7 and kedro-mlflow 2.0.3 still make.
warnings.filterwarnings("ignore", message=r"register_new_resolver\(\) is deprecated", category=UserWarning)

prepare_process()


def _project(relative: str = "") -> str:
    """Return the absolute path of something in the project's folder, wherever the process was started.

    ``ODIN_SLM_HOME`` names another folder; the tests put their throw-away projects there. Where the package is
    installed without its project, as ``kedro package`` makes it, the working folder is the project's.
    """
    checkout = Path(__file__).resolve().parents[2]
    root = os.environ.get("ODIN_SLM_HOME") or (checkout if (checkout / "pyproject.toml").is_file() else Path.cwd())
    return (Path(root).absolute() / relative).as_posix()


# Kedro calls the last one first, where it has a choice.
HOOKS = (
    ArtifactsHook(),
    ResultsHook(),
    SummaryHook(),
    WorkFolderHook(),
    TrackingHook(),
    ErrorsHook(),
)
# TrackingHook drives kedro-mlflow's own hook.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-mlflow", "kedro_mlflow")

CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS: dict[str, Any] = {
    "base_env": "base",
    "default_run_env": "local",
    "custom_resolvers": {"project": _project},
    "config_patterns": {"bases": ["bases*"]},
    # An environment changes single keys; the default would drop the rest of the file's top-level key.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft", "globals": "soft"},
}
