"""What holds for a process of this project: its environment variables, and one job with a model at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_model_in_use = threading.RLock()


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


def one_at_a_time(job: Callable[P, R]) -> Callable[P, R]:
    """Let threads wait for one another with jobs that load a model, as ThreadRunner would start several at once.

    While transformers loads weights, it changes how torch makes tensors for the whole process; and a job plans with
    memory that it does not share.
    """

    @wraps(job)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _model_in_use:
            return job(*args, **kwargs)

    return waiting
