"""Sweeps: every combination is trained in its own run, and the best becomes an environment that runs."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from pydantic import ValidationError

from extraction_values import TASK
from odin_slm.config.parameters import LoraParams, SweepParams, TrainingParams, changed
from odin_slm.core.errors import BackendError, WrongParameterError
from odin_slm.core.record import Record
from odin_slm.models import backends
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks import load
from odin_slm.training.sweep import sweep
from training.test_training import Killed, records

TRAINING = TrainingParams(
    **{"max_seq_length": 400, "max_steps": 2, "batch_size": 4, "evaluations": 1, "generation_samples": 0},
    **{"lora": LoraParams(r=4)},
)
GRID = {"learning_rate": (0.001, 0.05), "lora.r": (2, 4)}


def unwatched(*_: Any) -> Any:
    return nullcontext(lambda *_: None)


@pytest.fixture
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


@pytest.mark.parametrize("stopped", [Killed, KeyboardInterrupt, OSError])
def test_every_combination_is_trained_and_a_stopped_sweep_resumes(
    base: BaseModel, tmp_path: Path, stopped: type[BaseException]
) -> None:
    seen: list[dict[str, Any]] = []

    def watch(number: int, values: dict[str, Any]) -> Any:
        seen.append(values)
        if len(seen) == 3:
            raise stopped
        return nullcontext(lambda *_: None)

    params = SweepParams(experiment="tiny", space=GRID)
    with pytest.raises(stopped):
        sweep(base, records(8), records(4, 100), tmp_path, TRAINING, params, watch, TASK)
    results = sweep(base, records(8), records(4, 100), tmp_path, TRAINING, params, watch, TASK)
    ended = [trial for trial in results["trials"] if trial["eval_loss"] is not None]
    combinations = {(trial["values"]["learning_rate"], trial["values"]["lora.r"]) for trial in ended}
    assert combinations == {(rate, rank) for rate in GRID["learning_rate"] for rank in GRID["lora.r"]}
    assert len(seen) == 5, "what was stopped is trained again, and nothing else"
    assert results["best"]["eval_loss"] == min(trial["eval_loss"] for trial in ended)
    assert not list(tmp_path.glob("trial-*"))


def test_other_records_or_another_base_start_a_new_sweep(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = 0

    def train_lora(*_: Any) -> Any:
        nonlocal trained
        trained += 1
        return None, {"seconds": 1.0, "best_eval_loss": 1.0}

    def trials(base: BaseModel, train: list[Record], validation: list[Record]) -> int:
        nonlocal trained
        trained = 0
        sweep(base, train, validation, tmp_path / "work", TRAINING, params, unwatched, TASK)
        return trained

    monkeypatch.setattr("odin_slm.training.lora.train_lora", train_lora)
    params = SweepParams(experiment="tiny", space={"lora.r": (2, 4)})
    same = BaseModel("tiny", shutil.copytree(base.location, tmp_path / "tiny"))
    train, validation = records(2), records(1, 100)
    assert trials(same, train, validation) == 2
    assert trials(same, train, validation) == 0, "the same sweep is over"
    for name in ("instruction", "input", "output"):
        changed_record: Any = {**train[1], name: f"{train[1][name]} "}
        assert trials(same, [train[0], changed_record], validation) == 2, name
        assert trials(same, train, [changed_record]) == 2, name
    with (tmp_path / "tiny/config.json").open("a") as stream:
        stream.write("\n")
    assert trials(same, train, validation) == 2, "the base's files are others"


def test_values_that_exclude_each_other_cost_their_trial_alone(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = {"seconds": 1.0, "best_eval_loss": 0.5}
    monkeypatch.setattr("odin_slm.training.lora.train_lora", lambda *_: (tmp_path, done))
    params = SweepParams(experiment="tiny", space={"method": ("lora", "full"), "load_in_4bit": (True, False)})
    for _ in range(2):
        found = sweep(base, records(2), records(1, 100), tmp_path / "work", TRAINING, params, unwatched, TASK)
        failed = [trial for trial in found["trials"] if "failure" in trial]
        assert [trial["values"] for trial in failed] == [{"method": "full", "load_in_4bit": True}]
        assert len(found["trials"]) == 4


def test_a_trial_learns_what_a_training_would(base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[tuple[int, list[str], str]] = []

    def train(_: BaseModel, examples: list[Record], *rest: Any) -> Any:
        learned.append((len(examples), [one["output"].partition("\n")[0] for one in examples], rest[-1].name))
        return tmp_path, {"seconds": 1.0, "best_eval_loss": 0.5}

    monkeypatch.setattr("odin_slm.training.lora.train_lora", train)
    source = records(1)[0]["source"]
    task = load({"name": "extraction", "options": {"form": "inline"}})
    repeated = TRAINING.model_copy(update={"repeats": {source: 2}})
    params = SweepParams(experiment="tiny", space={"swap_names": (0.0, 0.5)})
    sweep(base, records(4), records(2, 100), tmp_path, repeated, params, unwatched, task)
    assert [(count, name) for count, _, name in learned] == [(8, "extraction")] * 2
    assert {head for _, heads, _ in learned for head in heads} == {"### Text:"}
    with pytest.raises(WrongParameterError, match=r"sweep\.space.*swap_names=0\.5 does not go with"):
        sweep(base, records(4), records(2, 100), tmp_path, TRAINING, params, unwatched, task)


def test_optuna_draws_from_ranges(base: BaseModel, tmp_path: Path) -> None:
    space = {
        "learning_rate": {"low": 0.001, "high": 0.1, "log": True},
        "lora.r": {"low": 2, "high": 5, "integer": True},
    }
    params = SweepParams(experiment="tiny", search="tpe", trials=2, train_records=4, space=space)
    results = sweep(base, records(8), records(2, 100), tmp_path, TRAINING, params, unwatched, TASK)
    assert len(results["trials"]) == 2
    for trial in results["trials"]:
        assert 0.001 <= trial["values"]["learning_rate"] <= 0.1
        assert trial["values"]["lora.r"] in (2, 3, 4, 5)


def test_a_value_that_does_not_go_with_the_records_is_one_failed_trial(base: BaseModel, tmp_path: Path) -> None:
    params = SweepParams(experiment="tiny", space={"max_seq_length": (64, 400)})
    for _ in range(2):  # the second time nothing is left to do
        found = sweep(base, records(4), records(2, 100), tmp_path, TRAINING, params, unwatched, TASK)
        by_length = {trial["values"]["max_seq_length"]: trial for trial in found["trials"]}
        assert "64" in by_length[64]["failure"]
        assert found["best"]["values"] == {"max_seq_length": 400}
        assert len(found["trials"]) == 2


def test_a_sweep_whose_trials_all_fail_gives_the_reason(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cannot = BackendError("no 4-bit layer here.", where="training.load_in_4bit", fix="Set it to false.")
    monkeypatch.setattr(backends, "four_bit_error", lambda *_: cannot)
    params = SweepParams(experiment="tiny", space={"load_in_4bit": (True,)})
    with pytest.raises(BackendError, match=r"sweep.space.*all 1 trials failed.*no 4-bit layer here"):
        sweep(base, records(4), records(2), tmp_path, TRAINING, params, unwatched, TASK)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"space": {"rate": [1]}}, "no parameter 'rate'"),
        ({"space": {"lora.rank": [1]}}, "no parameter 'lora.rank'"),
        ({"space": {"learning_rate": [-1.0]}}, "learning_rate"),
        ({"space": {"learning_rate": {"low": 0.1, "high": 0.2}}}, "a grid needs values"),
        ({"space": {"learning_rate": {"low": 0.2, "high": 0.1}}, "search": "tpe", "trials": 1}, "low must be less"),
        ({"space": {"learning_rate": [0.1]}, "search": "tpe"}, "needs a number of trials"),
        ({"space": {}}, "space"),
        ({"space": {"lora.r": [4], "learning_rate": []}}, "no values to draw for learning_rate"),
        # most draws would not be whole numbers
        ({"space": {"lora.r": {"low": 8, "high": 32}}, "search": "tpe", "trials": 1}, r"lora\.r\n.*valid integer"),
    ],
)
def test_an_invalid_space_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SweepParams(experiment="tiny", **values)


def test_changed_parameters_are_checked_together() -> None:
    assert changed(TrainingParams(), {"lora.r": 4, "epochs": 2}).lora.r == 4
    with pytest.raises(ValidationError, match="save_strategy"):
        changed(TrainingParams(), {"eval_strategy": "epoch"})


def test_the_best_configuration_runs_as_an_environment(project: Path, run: Callable[..., dict[str, Any]]) -> None:
    small = {"training": {"max_steps": 2, "evaluations": 1, "generation_samples": 0}}
    grid = {"space": {"learning_rate": [0.0001, 0.02], "lora.r": [4]}, "train_records": 8}
    other = "data/06_models/another base"
    shutil.copytree(project / "data/06_models/odin-nano", project / other)
    run("data", "sweep", params={**small, "sweep": grid, "base_model": other})
    results = json.loads((project / "data/08_reporting/test/sweep_results.json").read_text())
    folder = project / "conf/test-best"
    written = yaml.safe_load((folder / "parameters_training.yml").read_text())["training"]
    assert written["learning_rate"] == results["best"]["values"]["learning_rate"]
    assert written["lora"]["r"] == 4
    assert written["max_seq_length"] == 900
    names = {file.name for file in folder.iterdir()}
    assert names == {file.name for file in (project / "conf/test").iterdir()}
    assert all(file.read_text().startswith("#") for file in folder.iterdir())
    assert yaml.safe_load((folder / "globals.yml").read_text())["experiment"] == "test-best"

    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("odin-slm-test").experiment_id])
    children = [found for found in runs if "mlflow.parentRunId" in found.data.tags]
    (parent,) = [found for found in runs if "mlflow.parentRunId" not in found.data.tags]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.data.params["training.learning_rate"] for child in children} == {"0.0001", "0.02"}
    assert min(child.data.metrics["eval_loss"] for child in children) == pytest.approx(results["best"]["eval_loss"])

    from conftest import runner_in

    runner_in(project, env="test-best")("data", "training", params={"training": {"max_steps": 2}})
    trained = json.loads((project / "data/06_models/test-best/adapter/adapter_config.json").read_text())
    assert trained["base_model_name_or_path"] == other, "the best is the best of that base"
