"""Experiments from before become runs with their own dates, once; then all runs are compared."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction_values import TASK
from odin_slm.core.errors import ExperimentFolderError, MissingInputError
from odin_slm.tracking.backfill import ExperimentFolder, read_folder
from odin_slm.tracking.comparison import compare, comparison_text, plot_comparison
from odin_slm.tracking.past_runs import all_runs, track_past_runs
from odin_slm.tracking.registry import Registry

CONFIG = """
model: {name: meta-llama/Llama-3.1-8B, path: /home/somebody/models/llama}
training: {learning_rate: 0.0002, epochs: 3}
lora: {r: 16}
hub: {token: hf_abcdefghijklmnopqrstuvwx}
"""
STATE = {
    "global_step": 20,
    "log_history": [
        {"loss": 1.5, "learning_rate": 2e-4, "grad_norm": 0.7, "epoch": 0.5, "step": 10},
        {"eval_loss": 1.4, "epoch": 1.0, "step": 20},
        {"train_runtime": 3600.0, "train_loss": 1.2, "epoch": 1.0, "step": 20},
    ],
}
SCORES = {"micro": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "tp": 5}, "macro": {"f1": 0.4}}
RESULTS = {"entity_metrics": SCORES, "relation_metrics": SCORES, "intervals": {"entity_f1_micro": [0.4, 0.6]}}
CHANGED = 1_700_000_000  # 2023-11-14 22:13:20 UTC


@pytest.fixture
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two whole experiments, and three that are broken, each in its own way."""
    folder = tmp_path_factory.mktemp("experiments")
    for name in ("medical_v13", "run_2024-05-06_0708"):
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text(CONFIG.replace("epochs: 3", f"epochs: {len(name)}"))
        (folder / name / "trainer_state.json").write_text(json.dumps(STATE))
        (folder / name / "evaluation_results.json").write_text(json.dumps(RESULTS))
    dated = {**RESULTS, "timestamp": "2024-05-07T08:09:10"}
    (folder / "run_2024-05-06_0708/evaluation_results_bc5cdr.json").write_text(json.dumps(dated))
    for name, file, text in (
        ("broken_json", "trainer_state.json", '{"log_history": ['),
        ("broken_yaml", "config.yaml", "model: [1, 2"),
        ("broken_results", "evaluation_results.json", "{}"),
        ("empty", "notes.txt", "nothing"),
    ):
        (folder / name).mkdir()
        if name == "broken_results":
            (folder / name / "config.yaml").write_text(CONFIG)
        (folder / name / file).write_text(text)
    for file in folder.rglob("*.*"):
        os.utime(file, (CHANGED, CHANGED))
    return folder


def store(project: Path) -> tuple[mlflow.MlflowClient, list[mlflow.entities.Run]]:
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    found = client.get_experiment_by_name("odin-slm-test")
    return client, client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])


def test_experiments_become_runs_once(project: Path, run: Callable[..., dict[str, Any]], experiments: Path) -> None:
    adapter = experiments / "medical_v13/final_model"
    _save_adapter(project / "data/06_models/odin-nano", adapter)
    run("backfill", params={"experiments": str(experiments)})
    report = project / "data/08_reporting/backfill.json"
    first = report.read_bytes()
    client, found = store(project)
    assert sorted(r.info.run_name for r in found) == [
        "medical_v13 evaluation test",
        "medical_v13 training",
        "run_2024-05-06_0708 evaluation bc5cdr",
        "run_2024-05-06_0708 evaluation test",
        "run_2024-05-06_0708 training",
    ]
    by_name = {r.info.run_name: r for r in found}
    training, evaluation = by_name["medical_v13 training"], by_name["medical_v13 evaluation test"]
    assert (training.info.end_time, training.info.start_time) == (CHANGED * 1000, (CHANGED - 3600) * 1000)
    assert training.info.status == "FINISHED"
    assert training.data.params["training.learning_rate"] == "0.0002"
    assert training.data.params["model.path"] == "…/llama"
    history = client.get_metric_history(training.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == [(10, 1.5), (20, 1.2)]
    assert evaluation.data.tags["mlflow.parentRunId"] == training.info.run_id
    assert evaluation.data.metrics["entity_f1_micro_low"] == 0.4
    other = by_name["run_2024-05-06_0708 training"].info.start_time
    assert other == 1_714_979_280_000, "2024-05-06 07:08 UTC, as the folder says"
    undated = by_name["run_2024-05-06_0708 evaluation test"].info.start_time
    assert undated == other + 3_600_000, "its file is older than the training"
    assert by_name["run_2024-05-06_0708 evaluation bc5cdr"].info.start_time == 1_715_069_350_000

    for one in found:
        folder = Path(mlflow.artifacts.download_artifacts(run_id=one.info.run_id))
        texts = [
            f.read_text() for f in folder.rglob("*.*") if f.suffix in (".yaml", ".json") and "model" not in f.parts
        ]
        everything = [*one.data.tags.values(), *one.data.params.values(), *texts]
        assert not [text for text in everything if "/home/" in text or "hf_abc" in text or str(experiments) in text]

    assert training.data.tags["model_version"] == "1"
    version = Registry("odin-medical-ner-re-test").version("1")
    assert version.run_id == training.info.run_id
    assert version.aliases == []
    model = mlflow.pyfunc.load_model("models:/odin-medical-ner-re-test/1")
    assert "entities" in model.predict(["Rash by aspirin."], params={"max_new_tokens": 8})

    skipped = json.loads(first)["skipped"]
    assert set(skipped) == {"broken_json", "broken_yaml", "broken_results", "empty"}
    assert "broken_json/trainer_state.json: not JSON" in skipped["broken_json"]
    assert str(experiments) not in first.decode()

    moved = experiments.with_name("moved")
    shutil.copytree(experiments, moved)  # other dates on the disk, the same content
    for place in (experiments, moved):
        run("backfill", params={"experiments": str(place)})
        assert report.read_bytes() == first
        assert len(store(project)[1]) == len(found)
    assert len(Registry("odin-medical-ner-re-test").versions()) == 1

    # A backfill that was stopped half-way through a run makes that run anew.
    client.update_run(evaluation.info.run_id, status="RUNNING")
    run("backfill", params={"experiments": str(experiments)})
    again = store(project)[1]
    assert len(again) == len(found)
    assert {r.info.status for r in again} == {"FINISHED"}

    run("comparison")
    assert len(store(project)[1]) == len(found), "comparing is no run"
    rows = json.loads((project / "data/08_reporting/comparison/comparison.json").read_text())
    assert len(rows) == len(found)
    changed = next(row["changed"] for row in rows if row["name"] == "run_2024-05-06_0708 training")
    assert changed == {"training.epochs": ["11", "19"]}
    table = (project / "data/08_reporting/comparison/comparison.md").read_text()
    assert "| 0.500 [0.400, 0.600] |" in table
    assert "training.epochs: 11 → 19" in table
    assert (project / "data/08_reporting/comparison/comparison_figure.json").stat().st_size > 1000


def test_a_folder_that_is_not_named_is_asked_for(project: Path, run: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Exception, match="--params experiments=DIR"):
        run("backfill")


def _save_adapter(base: Path, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(folder, save_embedding_layers=False)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    (folder / "optimizer.pt").write_bytes(b"a pickle")


def test_secrets_of_a_configuration_are_nowhere(tmp_path: Path) -> None:
    config = (
        "# how it was\nwandb: {api_key: 0123456789abcdef, project: odin}\ndb_password: hunter2hunter2\n"
        "servers:\n- {url: here, access_token: letmeinletmein}\npad_token: <pad>\nuse_auth_token: true\n"
        "date: 20240503\n"
        "tracking_uri: https://me:opensaysme@mlflow.example.org:5000/x\n"
        f"notes: [AKIA{'ABCD' * 4}, ghp_{'ab12' * 9}]\n"
    )
    state = {**STATE, "callbacks": [{"secret": "sesame sesame"}]}
    results = {**RESULTS, "judge": {"api-key": "a key of theirs", "name": "x"}}
    texts = {"config.yaml": config, "trainer_state.json": json.dumps(state)}
    texts["evaluation_results.json"] = json.dumps(results)
    training, evaluation = read_folder(ExperimentFolder("past", texts, dict.fromkeys(texts, CHANGED * 1000)))
    everything = [*training.params.values(), *training.artifacts.values(), *evaluation.artifacts.values()]
    assert training.params["tracking_uri"] == "https://***@mlflow.example.org:5000/x"
    for secret in ("opensaysme", "AKIA", "ab12", "0123456789abcdef", "hunter2", "letmein", "sesame", "a key of"):
        assert not [text for text in everything if secret in text]
    assert training.params["pad_token"] == "<pad>"
    assert training.params["use_auth_token"] == "True"
    assert "project: odin" in training.artifacts["configuration/config.yaml"]
    assert training.started == 1_714_694_400_000, "a day, and no seconds since 1970"
    plain = {"config.yaml": "# how it was\nepochs: 3\n"}
    (kept,) = read_folder(ExperimentFolder("plain", plain, dict.fromkeys(plain, CHANGED * 1000)))
    assert kept.artifacts["configuration/config.yaml"] == plain["config.yaml"], "as somebody wrote it"


@pytest.mark.parametrize(
    ("date", "started"),
    [(1_714_700_000, 1_714_700_000_000), (1_714_700_000_000, 1_714_700_000_000), (10**18, CHANGED * 1000)],
)
def test_a_date_is_in_seconds_or_milliseconds(date: int, started: int) -> None:
    texts = {"config.yaml": f"date: {date}\n"}
    (found,) = read_folder(ExperimentFolder("past", texts, dict.fromkeys(texts, CHANGED * 1000)))
    assert found.started == started


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield
    mlflow.set_tracking_uri(before)


def test_equal_folders_are_one_run(empty: None) -> None:
    texts = {"config.yaml": CONFIG, "trainer_state.json": json.dumps(STATE)}
    runs = [
        run
        for name in ("v13", "copy of v13")
        for run in read_folder(ExperimentFolder(name, texts, dict.fromkeys(texts, CHANGED * 1000)))
    ]
    assert len(runs) == 2
    track_past_runs(runs, "past", "odin", TASK)
    assert [run.info.run_name for run in all_runs("past")] == ["v13 training"]


keys = st.sampled_from(
    "step loss eval_loss train_runtime log_history timestamp micro macro f1 entity_metrics intervals date".split()
)


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_the_reader(config: str, state: str, results: str) -> None:
    files = {"c.yaml": config, "trainer_state.json": state, "evaluation_results.json": results}
    with suppress(ExperimentFolderError):
        assert read_folder(ExperimentFolder("x", files, dict.fromkeys(files, 0)))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(keys, values), st.dictionaries(keys, values))
def test_no_value_breaks_the_reader(state: dict[str, Any], results: dict[str, Any]) -> None:
    files = {
        "trainer_state.json": json.dumps({"log_history": [state], **state}),
        "evaluation_results.json": json.dumps({**RESULTS, **results}),
    }
    with suppress(ExperimentFolderError):
        assert read_folder(ExperimentFolder("x", files, dict.fromkeys(files, 0)))


def one(number: int, started: str, params: dict[str, str], **tags: str) -> dict[str, Any]:
    return {
        "run_id": f"{number:08d}",
        "name": f"n{number}",
        "status": "FINISHED",
        "started": started,
        "tags": {"experiment": "v15", "stage": "training", **tags},
        "params": params,
        "metrics": {"entity_f1_micro": 0.5, "entity_f1_micro_low": 0.4, "entity_f1_micro_high": 0.6},
    }


def test_a_comparison_says_what_changed_and_on_which_data() -> None:
    runs = [
        one(2, "2024-02-01", {"a": "2", "b": "1"}, data_manifest_sha256="f" * 64),
        one(1, "2024-01-01", {"a": "1", "b": "1"}),
        one(3, "2024-03-01", {}, **{"mlflow.parentRunId": "00000001"}),
        one(4, "2024-04-01", {"a": "9"}, experiment="other"),
    ]
    rows = compare(runs, TASK.headline, "v15")
    assert [row["run_id"] for row in rows] == ["00000001", "00000002", "00000003"]
    assert [row["changed"] for row in rows] == [{}, {"a": ["1", "2"]}, {"a": ["2", "1"]}]
    assert rows[1]["entity_f1_interval"] == [0.4, 0.6]
    assert rows[1]["relation_f1"] is None
    assert "ffffffffffff" in comparison_text(rows, TASK.headline)
    figure = plot_comparison(rows, TASK.headline)
    assert list(figure.data[0].error_y.arrayminus) == pytest.approx([0.1] * 3)
    assert compare([], TASK.headline) == []
    assert plot_comparison([], TASK.headline).layout.title.text == "No run has measured entity F1 and relation F1"


def test_a_comparison_of_an_experiment_without_runs_names_those_that_have_some() -> None:
    with pytest.raises(MissingInputError, match=r"comparison\.experiment: no run.*'v51'.*v15"):
        compare([one(1, "2024-01-01", {"a": "1"})], TASK.headline, "v51")
