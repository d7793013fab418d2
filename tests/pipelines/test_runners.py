"""Every pipeline runs by name under each of Kedro's runners, and is tracked once, wherever its nodes run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from conftest import ROOT

PROGRAM = """
import json, sys
from kedro.framework.project import configure_project, pipelines
from kedro.framework.session import KedroSession
import kedro.runner

configure_project("odin_slm")
runner, params, names = getattr(kedro.runner, sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
assert sorted(pipelines) == sorted([*names, "join_training"])  # it needs another machine
for name in names:
    with KedroSession.create(env="test", runtime_params=params) as session:
        session.run(pipeline_names=[name], runner=runner())
"""
NAMES = [
    *("sample", "ingestion", "combination", "data", "training", "evaluation", "publishing", "__default__"),
    *("extraction", "review", "sweep", "pretraining", "comparison", "backfill"),
]
UNTRACKED = {"comparison", "backfill"}
LOGGED = {
    "combination": {"data/manifest.json", "figures/data.json"},
    "training": {"adapter/adapter_model.safetensors", "adapter/task.json", "training/training_state.json"},
    "evaluation": {"evaluation/evaluation_results.json", "figures/type_scores.json", "predictions/predictions.jsonl"},
    "publishing": {"model/MLmodel", "publishing/publication.json", "evaluation/promotion.json"},
    "sweep": {"sweep/sweep_results.json"},
    "pretraining": {"pretraining/pretraining_state.json"},
}
LOGGED["data"] = LOGGED["combination"]
LOGGED["__default__"] = set().union(*(LOGGED[name] for name in ("data", "training", "evaluation"))) | {
    "publishing/publication.json"
}


@pytest.fixture
def params(project: Path) -> dict[str, Any]:
    """Small everything, and what users bring to the pipelines that need it."""
    texts, past = project / "texts", project / "past/first"
    texts.mkdir()
    (texts / "plain.txt").write_text("Rash followed aspirin in one patient. It resolved after a week.\n" * 40)
    tagged = "We\tO\nfound\tO\nBRCA{}\tB-Gene\nmutations\tO\n.\tO\n"
    (texts / "genes.iob.tsv").write_text("\n".join(tagged.format(number) for number in range(30)))
    past.mkdir(parents=True)
    (past / "config.yaml").write_text("model: {name: meta-llama/Llama-3.1-8B}\ntraining: {epochs: 3}\n")
    state = {"global_step": 20, "log_history": [{"loss": 1.5, "epoch": 0.5, "step": 10}]}
    (past / "trainer_state.json").write_text(json.dumps(state))
    (project / "given.jsonl").write_text('{"id": "1", "text": "Aspirin caused nausea."}\n')
    return {
        "sample": {"documents_per_corpus": 20},
        "training": {"max_steps": 2},
        "evaluation": {"num_samples": 4, "calibration_samples": 4, "max_new_tokens": 16, "bootstrap_resamples": 100},
        "sweep": {"trials": 1, "train_records": 8},
        "extraction": {"max_new_tokens": 16},
        "documents": str(project / "given.jsonl"),
        "text": str(texts),
        "experiments": str(past.parent),
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("runner", ["SequentialRunner", "ThreadRunner", "ParallelRunner"])
def test_every_pipeline_runs_and_is_tracked_once(project: Path, params: dict[str, Any], runner: str) -> None:
    """In a process of its own: ParallelRunner forks it, and torch has been at work in this one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ODIN_SLM_HOME": str(project)}
    command = [sys.executable, "-c", PROGRAM, runner, json.dumps(params), json.dumps(NAMES)]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]

    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("odin-slm-test")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    own = [run for run in runs if "kedro_command" in run.data.tags]
    assert [run.data.tags["stage"] for run in own] == [name for name in NAMES if name not in UNTRACKED]
    assert {run.info.status for run in runs} == {"FINISHED"}
    tracked = {run.data.tags["stage"]: run for run in own}
    for name, files in LOGGED.items():
        folder = Path(mlflow.artifacts.download_artifacts(run_id=tracked[name].info.run_id, tracking_uri=_uri(project)))
        assert files <= {file.relative_to(folder).as_posix() for file in folder.rglob("*")}, name
    assert "ingestion.max_tokens" in tracked["data"].data.params
    assert {"training.lora.r", "evaluation.num_samples"} <= set(tracked["__default__"].data.params)
    for name in ("training", "__default__"):
        assert {"train_loss", "eval_loss"} <= set(tracked[name].data.metrics)
    steps = [point.step for point in client.get_metric_history(tracked["training"].info.run_id, "train_loss")]
    assert len(steps) == len(set(steps)), "each figure once"
    assert (
        tracked["evaluation"].data.metrics["entity_f1_micro"] == tracked["__default__"].data.metrics["entity_f1_micro"]
    )
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == tracked["sweep"].info.run_id]
    assert [trial.info.run_name for trial in trials] == ["trial-0"]
    assert {tracked[name].data.tags["model_version"] for name in ("publishing", "__default__")} == {"1"}
    assert not (project / "data/07_model_output/test/work").exists()


def _uri(project: Path) -> str:
    return f"sqlite:///{project}/mlflow.db"
