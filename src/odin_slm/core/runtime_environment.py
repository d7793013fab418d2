"""Environment variables that a process of this project starts with; they are read when torch is imported."""

from __future__ import annotations

import os


def prepare_process() -> None:
    """Set what is not set yet."""
    for name, value in {
        # Idle OpenMP workers that spin take the core from the one that works. Read when torch is imported.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "TOKENIZERS_PARALLELISM": "false",
        # Nothing reports its use to anybody.
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # A connection to SQLite must not be carried into the worker processes of ParallelRunner.
        "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        os.environ.setdefault(name, value)
