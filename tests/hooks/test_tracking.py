"""Each run explains itself, and nothing of one run reaches another."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import mlflow
import pytest
import yaml
from kedro.pipeline import Node, Pipeline

from conftest import runner_in
from odin_slm.config.parameters import PublishingParams, TrainingParams
from odin_slm.core.redaction import Redactor
from odin_slm.core.tracker import tracker
from odin_slm.datasets.json_files import CanonicalJSONDataset
from odin_slm.tasks.extraction.reporting.tracked import tracked_metrics
from odin_slm.training import callbacks

RESULTS = {
    "test_set": {"description": "test split", "examples": 9, "documents": 8, "synthetic": True, "sources": {"ade": 9}},
    "decoding": "constrained",
    "free": {
        "entity_metrics": {"micro": {"precision": 0.1, "recall": 0.1, "f1": 0.123}},
        "relation_metrics": {"micro": {"precision": 0.1, "recall": 0.1, "f1": 0.1}},
        "intervals": {"entity_f1_micro": [0.11, 0.15]},
    },
    "entity_metrics": {
        "micro": {"precision": 0.5, "recall": 0.25, "f1": 0.333, "tp": 1, "fp": 1, "fn": 3},
        "macro": {"precision": 0.4, "recall": 0.2, "f1": 0.3},
    },
    "relation_metrics": {
        "micro": {"precision": 1.0, "recall": 0.5, "f1": 0.667, "tp": 1, "fp": 0, "fn": 1},
        "macro": {"precision": 0.9, "recall": 0.4, "f1": 0.5},
    },
    "output_quality": {"parse_failure_rate": 0.125, "examples": 9},
    "intervals": {"entity_f1_micro": [0.2, 0.4], "relation_f1_micro": [0.5, 0.8]},
    "base": {
        "decoding": "constrained",
        "entity_metrics": {"micro": {"precision": 0.0, "recall": 0.0, "f1": 0.0}},
        "relation_metrics": {"micro": {"precision": 0.0, "recall": 0.0, "f1": 0.0}},
        "intervals": {"entity_f1_micro": [0.0, 0.1]},
    },
    "difference": {"entity_f1_micro": {"value": 0.333, "interval": [0.1, 0.4]}},
}


def train_adapter(params: TrainingParams) -> dict[str, float]:
    """Log a curve as the engine does, unless the rate is one that fails."""
    if params.learning_rate == 0.5:
        raise RuntimeError("diverged")
    mlflow.log_metric("loss", params.learning_rate, step=1)
    return {"learning_rate": params.learning_rate}


def stop_training(params: TrainingParams) -> dict[str, float]:
    """Be interrupted, as by a notebook's stop button."""
    raise KeyboardInterrupt


def write_manifest() -> dict[str, int]:
    """Make a manifest."""
    return {"seed": 42}


def score_predictions() -> dict[str, Any]:
    """Make results."""
    return RESULTS


def read_training(train: list[Any]) -> dict[str, int]:
    """Read the training split."""
    return {"records": len(train)}


def choose(test: list[Any], given: list[Any] | None) -> list[Any]:
    """Choose what is scored."""
    return test if given is None else given


def take_a_second() -> int:
    """Give the sampler time."""
    time.sleep(1.5)
    return 1


TRAINING = Pipeline([Node(func=train_adapter, inputs="params:training", outputs="adapter", name="train_adapter")])


def runs(project: Path, experiment: str = "odin-slm") -> list[mlflow.entities.Run]:
    """All runs of a project, the oldest first."""
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    found = client.get_experiment_by_name(experiment)
    assert found, f"no experiment {experiment}"
    return client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])


@pytest.fixture
def training(bare_project: Path, register: Callable[..., None]) -> Path:
    register(training=TRAINING, __default__=TRAINING)
    return bare_project


def test_ten_sessions_in_one_process_are_ten_runs(training: Path) -> None:
    run = runner_in(training)
    rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    for rate in rates:
        if rate == 0.5:
            with pytest.raises(RuntimeError, match="diverged"):
                run("training", params={"training": {"learning_rate": rate}})
        else:
            run("training", params={"training": {"learning_rate": rate}})
        assert mlflow.active_run() is None

    found = runs(training)
    assert [r.info.status for r in found] == ["FAILED" if rate == 0.5 else "FINISHED" for rate in rates]
    assert [float(r.data.params["training.learning_rate"]) for r in found] == rates
    assert [r.data.metrics.get("loss") for r in found] == [None if rate == 0.5 else rate for rate in rates]


def test_typed_parameters_are_logged_value_by_value(training: Path) -> None:
    runner_in(training)("training")
    parameters = runs(training)[0].data.params
    assert parameters["training.epochs"] == "1.0"
    assert parameters["training.lora.r"] == "4"
    assert parameters["training.lora.alpha"] == "32", "defaults that no file names are logged too"
    assert set(parameters) == {name for name in parameters if name.startswith("training.")}


def test_a_node_receives_the_model_not_a_dict(bare_project: Path, register: Callable[..., None]) -> None:
    seen = []

    def keep(params: TrainingParams) -> dict[str, int]:
        seen.append(params)
        return {"r": params.lora.r}

    register(training=Pipeline([Node(func=keep, inputs="params:training", outputs="kept", name="keep_params")]))
    runner_in(bare_project)("training")
    assert isinstance(seen[0], TrainingParams)


def test_a_run_is_named_and_tagged_without_paths_of_this_machine(training: Path) -> None:
    absolute = training / "elsewhere"
    (training / "conf/base/catalog.yml").write_text(
        "adapter:\n  type: odin_slm.datasets.json_files.CanonicalJSONDataset\n"
        "  filepath: ${runtime_params:adapter, data/adapter}/x.json\n"
    )
    runner_in(training)("training", params={"adapter": str(absolute), "training": {"epochs": 2.0}})
    run = runs(training)[0]
    assert run.info.run_name == "demo"
    assert run.data.tags["experiment"] == "demo"
    assert run.data.tags["stage"] == "training"
    assert run.data.tags["kedro_command"] == (
        "kedro run --pipelines training --params adapter=elsewhere,training.epochs=2.0"
    )
    everything = {**run.data.tags, **run.data.params}
    assert not {name: text for name, text in everything.items() if str(training) in text}
    assert run.data.tags["git_commit"] == "unknown", "the throw-away project is no repository"


def test_the_commit_and_whether_it_is_dirty_are_tagged(training: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(training), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", "pyproject.toml")
    git("commit", "-qm", "Begin")
    runner_in(training)("training")
    (training / "pyproject.toml").write_text("changed")
    runner_in(training)("training")
    clean, dirty = runs(training)
    assert clean.data.tags["git_commit"] == git("rev-parse", "HEAD")
    assert (clean.data.tags["git_dirty"], dirty.data.tags["git_dirty"]) == ("false", "true")


def test_an_interrupted_run_is_killed_before_the_next_one_logs(
    bare_project: Path, register: Callable[..., None]
) -> None:
    stop = Pipeline([Node(func=stop_training, inputs="params:training", outputs="adapter", name="stop_training")])
    register(stop=stop, training=TRAINING)
    with pytest.raises(KeyboardInterrupt):
        runner_in(bare_project)("stop")
    runner_in(bare_project)("training")
    assert [r.info.status for r in runs(bare_project)] == ["KILLED", "FINISHED"]
    assert mlflow.active_run() is None


def test_a_failing_hook_does_not_leave_the_run_open(training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError("a hook failed")

    monkeypatch.setattr("odin_slm.hooks.summary.state_of", fail)
    with pytest.raises(Exception, match="a hook failed"):
        runner_in(training)("training")
    assert [r.info.status for r in runs(training)] == ["FAILED"]
    assert mlflow.active_run() is None


def test_the_run_of_an_orchestrator_stays_open(training: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{training}/mlflow.db")
    mlflow.set_experiment("outer")
    with mlflow.start_run() as outer:
        runner_in(training)("training")
        assert mlflow.active_run().info.run_id == outer.info.run_id


def test_the_data_of_a_run_are_tagged_by_their_manifest(bare_project: Path, register: Callable[..., None]) -> None:
    register(
        data=Pipeline([Node(func=write_manifest, inputs=None, outputs="manifest", name="write_manifest")]),
        training=Pipeline([Node(func=read_training, inputs="train", outputs="counts", name="read_training")]),
    )
    run = runner_in(bare_project)
    run("data")
    (bare_project / "data/train.json").write_text("[]")
    run("training")
    digest = hashlib.sha256((bare_project / "data/manifest.json").read_bytes()).hexdigest()
    assert [r.data.tags["data_manifest_sha256"] for r in runs(bare_project)] == [digest, digest]


def test_records_from_elsewhere_are_not_tagged_as_the_manifests(
    bare_project: Path, register: Callable[..., None]
) -> None:
    kind = "odin_slm.datasets.json_files.GivenRecordsDataset"
    given = f"type: {kind}, override: {{path: '${{runtime_params:test_data,null}}'}}"
    catalog = bare_project / "conf/base/catalog.yml"
    catalog.write_text(catalog.read_text() + f"given: {{{given}}}\n")
    register(evaluation=Pipeline([Node(func=choose, inputs=["test", "given"], outputs="chosen", name="choose")]))
    (bare_project / "mine.json").write_text("[]")
    (bare_project / "data").mkdir()
    (bare_project / "data/test.json").write_text("[]")
    (bare_project / "data/manifest.json").write_text(json.dumps({"outputs": {"test.json": "0" * 64}}))
    run = runner_in(bare_project)
    run("evaluation")
    run("evaluation", params={"test_data": "mine.json"})
    tagged = {"data_manifest_sha256" in r.data.tags: len(r.inputs.dataset_inputs) for r in runs(bare_project)}
    assert tagged == {True: 1, False: 0}


def test_the_splits_are_inputs_with_their_digests(bare_project: Path, register: Callable[..., None]) -> None:
    digest = hashlib.sha256(b"[]").hexdigest()
    register(training=Pipeline([Node(func=read_training, inputs="train", outputs="counts", name="read_training")]))
    (bare_project / "data").mkdir()
    (bare_project / "data/train.json").write_text("[]")
    manifest = {"outputs": {"train.json": digest, "val.json": digest}, "counts": {"train": {"records": 0}}}
    (bare_project / "data/manifest.json").write_text(json.dumps(manifest))
    runner_in(bare_project)("training")
    (logged,) = runs(bare_project)[0].inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("demo/train", digest[:36])
    assert json.loads(logged.dataset.source) == {"uri": "data/train.json"}
    assert json.loads(logged.dataset.profile) == {"records": 0}
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]


def test_a_run_names_machine_libraries_and_configuration(training: Path) -> None:
    import torch

    runner_in(training)("training", params={"training": {"epochs": 2.0}})
    run = runs(training)[0]
    facts = {name.removeprefix("system."): value for name, value in run.data.tags.items() if name.startswith("system.")}
    assert set(facts) == {"cpu", "cores", "ram_gib", "gpu", "driver", "cuda", "torch", "python", "os"}
    assert facts["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert facts["cuda"] == (torch.version.cuda or "none")
    assert float(facts["ram_gib"]) > 0.5
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))
    libraries = json.loads((folder / "environment/libraries.json").read_text())
    assert libraries["mlflow"] == mlflow.__version__
    parameters = yaml.safe_load((folder / "configuration/parameters.yml").read_text())
    assert parameters["training"] == {"epochs": 2.0, "lora": {"r": 4}}, "as resolved, with what the user set"
    assert yaml.safe_load((folder / "configuration/globals.yml").read_text())["experiment"] == "demo"
    assert "{name}" in yaml.safe_load((folder / "configuration/catalog.yml").read_text())


def test_nothing_tracked_holds_a_path_of_this_machine_or_a_secret(
    bare_project: Path, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = "/elsewhere/of/somebody"
    secrets = {"HF_TOKEN": "hf_abcdefghijklmnop", "WANDB_API_KEY": "0123456789abcdef"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    (bare_project / "conf/local/credentials.yml").write_text("store: {password: correct-horse-battery}\n")
    (bare_project / "conf/base/catalog.yml").write_text(
        "manifest:\n  type: odin_slm.datasets.json_files.CanonicalJSONDataset\n"
        "  filepath: ${runtime_params:out,data}/m.json\n  metadata: {mlflow: {artifact_path: data}}\n"
        "adapter:\n  type: odin_slm.datasets.models.AdapterDataset\n  filepath: data/06_models/adapter\n"
        "  metadata: {mlflow: {artifact_path: adapter}}\n"
    )
    (bare_project / "conf/base/parameters.yml").write_text(
        f"publishing: {{experiment: demo, license_file: {bare_project}/LICENSE}}\n"
    )
    (bare_project / "LICENSE").write_text("")
    told = {"elsewhere": elsewhere, "here": str(bare_project / "data"), **secrets, "password": "correct-horse-battery"}
    made = bare_project / "made"
    made.mkdir()
    (made / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": elsewhere}))
    (made / "adapter_model.safetensors").write_bytes(b"\x00\xff")

    def tell(publishing: PublishingParams) -> tuple[dict[str, str], Path]:
        return told, made

    tell_all = Node(func=tell, inputs="params:publishing", outputs=["manifest", "adapter"], name="tell_all")
    register(publishing=Pipeline([tell_all]))
    runner_in(bare_project)("publishing", params={"out": elsewhere.replace("elsewhere", str(bare_project / "o")[1:])})

    run = runs(bare_project)[0]
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))
    texts = {f.relative_to(folder).as_posix(): f.read_bytes().decode("utf-8", "replace") for f in folder.rglob("*.*")}
    assert {"data/m.json", "adapter/adapter_model.safetensors", "configuration/parameters.yml"} <= set(texts)
    everything = {**run.data.tags, **run.data.params, **texts}
    hidden = (str(bare_project), "correct-horse-battery", *secrets.values())
    assert not {name: text for name, text in everything.items() if any(value in text for value in hidden)}
    assert run.data.params["publishing.license_file"] == "LICENSE"
    assert json.loads(texts["data/m.json"])["here"] == "data"


def test_paths_that_the_user_names_keep_their_last_part() -> None:
    redactor = Redactor(Path("/p/project"), {"a": {"adapter": "/home/me/adapter"}}, environment={})
    text = 'from /home/me/adapter, /p/project/data/x and /p/project; "/home/me/adapter/config.json"'
    assert redactor.text(text) == 'from …/adapter, data/x and .; "…/adapter/config.json"'


def test_what_only_looks_like_a_path_or_a_secret_stays() -> None:
    address = "https://me:hunter22@minio:9000"
    credentials = {"db": {"user": "postgres", "host": "localhost", "password": "opensesame"}, "endpoint_url": address}
    redactor = Redactor(Path("/app"), {"corpora": "/data"}, credentials, environment={})
    for text in ("treatment/application", "and/approved", "https://host/datasets/a", "postgresql on localhost:5000"):
        assert redactor.text(text) == text
    text = r'{"read": "/data, /data/x. (/data)\n/app/src", "store": "file:///app/m.db", "by": "me:opensesame@x"}'
    hidden = r'{"read": "…/data, …/data/x. (…/data)\nsrc", "store": "file://m.db", "by": "me:***@x"}'
    assert redactor.text(text) == hidden
    assert redactor.text("in /data.") == "in …/data."
    assert redactor.text(f"at {address}/bucket") == "at ***/bucket"
    assert Redactor(Path("/"), environment={}).text("and/or /etc") == "and/or /etc"


def test_system_metrics_are_sampled(
    bare_project: Path, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    node = Node(func=take_a_second, inputs=None, outputs="slept", name="take_a_second")
    register(training=Pipeline([node]))
    runner_in(bare_project)("training")
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(
        runs(bare_project)[0].data.metrics
    )


def test_the_curve_has_the_speed_without_the_time_of_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    clock = iter([10.0, 20.0, 26.0, 34.0])
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(clock))
    log = callbacks.with_throughput(1000, lambda step, figures: logged.append((step, figures)))
    log(10, {"loss": 3.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 0.1})
    log(20, {"loss": 2.0, "epoch": 0.2})
    log(20, {"eval_loss": 2.5, "eval_runtime": 6.0, "epoch": 0.2})
    log(30, {"loss": 1.0, "epoch": 0.4})
    assert [figures.get("tokens_per_second") for _, figures in logged] == [None, 10.0, None, pytest.approx(25.0)]


def test_jobs_report_to_nobody_or_to_the_run_and_trials_to_runs_below_it(
    bare_project: Path, register: Callable[..., None]
) -> None:
    def report() -> int:
        with tracker().trial("trial-0", {"training.lora.r": 4}):
            tracker().log_metrics(1, {"loss": 3.0})
        tracker().log_metrics(2, {"loss": 2.0, "grad_norm": 1.0})
        return 1

    report()
    assert mlflow.active_run() is None
    register(sweep=Pipeline([Node(func=report, inputs=None, outputs="made", name="report_figures")]))
    runner_in(bare_project)("sweep")
    outer, trial = runs(bare_project)
    assert {"train_loss": 2.0, "gradient_norm": 1.0}.items() <= outer.data.metrics.items()
    assert trial.data.metrics["train_loss"] == 3.0
    assert trial.data.params == {"training.lora.r": "4"}
    assert trial.data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert [run.info.status for run in (outer, trial)] == ["FINISHED"] * 2
    tracker().log_metrics(3, {"loss": 1.0})
    assert mlflow.active_run() is None


def test_results_become_metrics_with_the_ends_of_their_intervals(
    bare_project: Path, register: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    register(
        evaluation=Pipeline(
            [Node(func=score_predictions, inputs=None, outputs="evaluation_results", name="score_predictions")]
        )
    )
    runner_in(bare_project)("evaluation")
    metrics = runs(bare_project)[0].data.metrics
    expected = {
        "entity_f1_micro": 0.333,
        "entity_precision_micro": 0.5,
        "entity_recall_micro": 0.25,
        "entity_f1_micro_low": 0.2,
        "entity_f1_micro_high": 0.4,
        "relation_f1_micro": 0.667,
        "relation_f1_macro": 0.5,
        "free_entity_f1_micro": 0.123,
        "free_entity_f1_micro_low": 0.11,
        "base_entity_f1_micro": 0.0,
        "base_entity_f1_micro_high": 0.1,
        "difference_entity_f1_micro": 0.333,
        "difference_entity_f1_micro_low": 0.1,
        "parse_failure_rate": 0.125,
        "test_examples": 9.0,
    }
    assert {name: metrics.get(name) for name in expected} == expected
    printed = capsys.readouterr().out
    assert "0.333 (0.200-0.400)" in printed
    assert "synthetic texts" in printed


def test_metrics_need_no_base() -> None:
    results = {key: value for key, value in RESULTS.items() if key not in ("base", "difference")}
    assert not [name for name in tracked_metrics(results) if name.startswith(("base_", "difference_"))]


def test_files_and_folders_that_ask_for_it_become_artifacts(bare_project: Path, register: Callable[..., None]) -> None:
    (bare_project / "conf/base/catalog.yml").write_text(
        "manifest:\n  type: odin_slm.datasets.json_files.CanonicalJSONDataset\n  filepath: data/manifest.json\n"
        "  metadata: {mlflow: {artifact_path: data}}\n"
        "adapter:\n  type: odin_slm.datasets.models.AdapterDataset\n  filepath: data/06_models/adapter\n"
        "  metadata: {mlflow: {artifact_path: adapter}}\n"
        '"{name}":\n  type: odin_slm.datasets.json_files.CanonicalJSONDataset\n  filepath: data/{name}.json\n'
    )
    made = bare_project / "made"
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    register(
        training=Pipeline(
            [
                Node(func=write_manifest, inputs=None, outputs="manifest", name="write_manifest"),
                Node(func=lambda: made, inputs=None, outputs="adapter", name="train_adapter"),
                Node(func=write_manifest, inputs=None, outputs="silent", name="write_silent"),
            ]
        )
    )
    runner_in(bare_project)("training")
    run = runs(bare_project)[0]
    client = mlflow.MlflowClient(f"sqlite:///{bare_project}/mlflow.db")
    listed = {
        entry.path for folder in ("", "data", "adapter") for entry in client.list_artifacts(run.info.run_id, folder)
    }
    every_run = {"configuration", "environment"}
    assert listed - every_run == {"data", "adapter", "data/manifest.json", "adapter/adapter_config.json"}
    assert (bare_project / "mlartifacts").is_dir()


class CountedDataset(CanonicalJSONDataset):
    """A dataset that notes when it is made."""

    made: ClassVar[list[str]] = []

    def __init__(self, *, filepath: str) -> None:
        self.made.append(filepath)
        super().__init__(filepath=filepath)


def test_datasets_that_a_run_does_not_use_are_not_made(bare_project: Path, register: Callable[..., None]) -> None:
    (bare_project / "conf/base/catalog.yml").write_text(
        "".join(
            f"{name}:\n  type: {__name__}.CountedDataset\n  filepath: {name}.json\n" for name in ("adapter", "other")
        )
    )
    register(training=TRAINING)
    CountedDataset.made.clear()
    runner_in(bare_project)("training")
    assert {Path(file).name for file in CountedDataset.made} == {"adapter.json"}


def test_a_pipeline_that_is_no_run_leaves_the_run_before_alone(
    bare_project: Path, register: Callable[..., None]
) -> None:
    compare = Pipeline([Node(func=write_manifest, inputs=None, outputs="comparison", name="compare_runs")])
    register(training=TRAINING, comparison=compare)
    for name in ("training", "comparison", "training"):
        runner_in(bare_project)(name)
        assert mlflow.active_run() is None
    assert [(r.info.status, r.data.tags["stage"]) for r in runs(bare_project)] == [("FINISHED", "training")] * 2


def test_the_store_lies_in_the_project_wherever_the_process_was_started(
    training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebooks = training / "notebooks"
    notebooks.mkdir()
    monkeypatch.chdir(notebooks)
    runner_in(training)("training")
    assert list(notebooks.iterdir()) == []
    assert len(runs(training)) == 1


def test_an_environment_changes_single_keys_of_the_tracking_configuration(training: Path) -> None:
    runner_in(training, env="test")("training")
    runner_in(training, env="test")("training")
    found = runs(training, "odin-slm-test")
    assert [r.info.status for r in found] == ["FINISHED", "FINISHED"], "run.nested: false of base must survive"
    assert mlflow.active_run() is None
