"""What tracking costs: seconds inside hooks, registry and tracking datasets, as a share of the same run's wall time.

    python benchmarks/tracking.py                # the default run, in a copy of the project
    python benchmarks/tracking.py --env test     # the same pipelines on less of everything

Both times are of one run of one process, so that what else the machine does weighs on both; processor seconds stand
beside, for a machine that is busy. The clock starts when the
session is created, after the process has started and imported Kedro; the first call of MLflow, with its imports and
the making of a new store, is inside.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
spent: dict[str, float] = defaultdict(float)
processor: dict[str, float] = defaultdict(float)
_inside = threading.local()


def timed(owner: Any, name: str) -> None:
    """Add the time of a function to what is spent, unless a timed function has called it."""
    function: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        if getattr(_inside, "any", False):
            return function(*args, **kwargs)
        _inside.any = True
        begin, worked = time.perf_counter(), time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            _inside.any = False
            label = f"{getattr(owner, '__name__', owner)}.{name}"
            spent[label] += time.perf_counter() - begin
            processor[label] += time.thread_time() - worked

    setattr(owner, name, measured)


def run(env: str | None) -> float:
    """Run the default pipeline in a copy of the project; return its seconds."""
    from kedro.framework.project import configure_project
    from kedro.framework.session import KedroSession

    configure_project("odin_slm")
    import mlflow
    from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    from odin_slm import hooks
    from odin_slm.datasets.registry import ChampionDataset, RegisteredModelDataset

    for owner, names in {
        MlflowHook: ("after_pipeline_run",),
        hooks.TrackingHook: ("after_context_created", "before_pipeline_run", "before_node_run", "after_dataset_saved"),
        hooks.ArtifactsHook: ("after_dataset_saved",),
        hooks.ResultsHook: ("after_dataset_saved",),
        RegisteredModelDataset: ("save",),
        ChampionDataset: ("load",),
        SystemMetricsMonitor: ("collect_metrics", "publish_metrics"),
        mlflow: ("log_metrics",),  # the training curve
    }.items():
        for name in names:
            timed(owner, name)
    begin = time.perf_counter()
    with KedroSession.create(project_path=Path.cwd(), env=env) as session:
        session.run()
    return time.perf_counter() - begin


def main() -> None:
    """Print the share."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--env", default=None)
    env = parser.parse_args().env
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        project.mkdir()
        shutil.copy(ROOT / "pyproject.toml", project)
        for name in ("conf", "data/01_raw/sample", "data/06_models/odin-nano"):
            shutil.copytree(ROOT / name, project / name)
        os.environ["ODIN_SLM_HOME"] = str(project)
        os.chdir(project)
        wall = run(env)
        os.chdir(ROOT)
    print("    wall  processor")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{seconds:8.2f} s {processor[name]:8.2f} s  {name}")
    total = sum(spent.values())
    print(f"{total:8.2f} s {sum(processor.values()):8.2f} s  of {wall:.1f} s: {total / wall:.1%} of the wall time")


if __name__ == "__main__":
    main()
