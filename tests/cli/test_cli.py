"""What a user sees when something is wrong: one message that names the thing, the place and the way out."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner, Result
from kedro.io import DatasetError
from kedro.pipeline import Node, Pipeline

from conftest import ROOT, runner_in
from odin_slm import cli
from odin_slm.cli.errors import explain
from odin_slm.config.loader import environments
from odin_slm.config.parameters import TrainingParams
from odin_slm.core import files
from odin_slm.core.errors import CorpusFormatError, UnknownEnvironmentError, UnknownParameterError


def train_adapter(params: TrainingParams) -> dict[str, float]:
    """Return something."""
    return {"epochs": params.epochs}


def parse_corpus() -> dict[str, int]:
    """Meet a broken file."""
    raise CorpusFormatError("3 fields, expected 8.", where="DRUG-AE.rel:17", fix="Get the file again.")


def read_adapter(adapter: Any) -> int:
    """Read."""
    return len(adapter)


def divide() -> float:
    """Have a defect."""
    return 1 / 0


def node(function: Callable[..., Any], inputs: str | None = None, outputs: str = "made") -> Pipeline:
    return Pipeline([Node(func=function, inputs=inputs, outputs=outputs, name=function.__name__)])


@pytest.fixture
def kedro_run(bare_project: Path, register: Callable[..., None]) -> Callable[..., Result]:
    register(
        training=node(train_adapter, "params:training", "adapter"),
        ingestion=node(parse_corpus),
        evaluation=node(read_adapter, "adapter"),
        faulty=node(divide),
        __default__=node(train_adapter, "params:training", "adapter"),
    )

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.run, list(arguments))

    return run


def statuses(project: Path) -> list[str]:
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    found = client.get_experiment_by_name("odin-slm")
    return [r.info.status for r in client.search_runs([found.experiment_id])] if found else []


def assert_one_message(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert result.stderr.count("ERROR") == 1
    for word in words:
        assert word in result.stderr
    assert mlflow.active_run() is None


def test_a_right_run_ends_with_zero(kedro_run: Callable[..., Result], bare_project: Path) -> None:
    result = kedro_run("--params", "training.epochs=2")
    assert result.exit_code == 0, result.output
    assert json.loads((bare_project / "data/adapter.json").read_text()) == {"epochs": 2.0}


def test_an_unknown_environment_names_those_there_are(kedro_run: Callable[..., Result], bare_project: Path) -> None:
    result = kedro_run("--env", "tset")
    assert_one_message(result, "--env tset", "Did you mean test?", "base, local, test")
    assert statuses(bare_project) == []
    assert not (bare_project / "mlruns").exists()


@pytest.mark.parametrize("env", ["ADE only (v2)", "#1", "a--b"])
def test_an_environment_whose_name_needs_quotes_is_refused(
    kedro_run: Callable[..., Result], bare_project: Path, env: str
) -> None:
    (bare_project / "conf" / env).mkdir()
    assert_one_message(kedro_run("--env", env), f"--env {env}: ", "another name")
    assert not (bare_project / "data").exists(), "no node may have run"


@pytest.mark.parametrize(
    ("key", "written", "reason"),
    [
        ("experiment", '"ADE only (v2)"', "is no name"),
        ("experiment", "../elsewhere", "is no name"),
        ("experiment", "no", "False is no text"),
        ("experiment", "1.10", "1.1 is no text"),
        ("registered_model", "models:/odin", "is no name"),
    ],
)
def test_an_experiment_whose_name_fits_nowhere_is_refused(
    kedro_run: Callable[..., Result], bare_project: Path, key: str, written: str, reason: str
) -> None:
    (bare_project / "conf/odd").mkdir()
    (bare_project / "conf/odd/globals.yml").write_text(f"{key}: {written}\n")
    assert_one_message(kedro_run("--env", "odd"), f"conf/odd/globals.yml, {key}: ", reason)
    assert not (bare_project / "data").exists(), "no node may have run"


def test_a_misspelt_parameter_names_the_right_one(kedro_run: Callable[..., Result], bare_project: Path) -> None:
    (bare_project / "conf/base/catalog_raw.yml").write_text(
        "ade_raw: {type: MemoryDataset, data: '${runtime_params:corpora, data}'}\n"
    )
    assert kedro_run("--params", "corpora=elsewhere").exit_code == 0
    assert_one_message(kedro_run("--params", "corpra=elsewhere"), "corpra", "Did you mean corpora?")


@pytest.mark.parametrize("name", ["202611", "1.10", "0117", "no", "2026-11-29"])
def test_a_name_that_looks_like_a_number_stays_text(
    kedro_run: Callable[..., Result], bare_project: Path, name: str
) -> None:
    (bare_project / "conf/base/catalog_raw.yml").write_text(
        "adapter: {type: MemoryDataset, data: '${runtime_params:documents, null}'}\n"
    )
    result = kedro_run("--pipelines", "evaluation", "--params", f"documents={name}")
    assert result.exit_code == 0, result.output
    assert json.loads((bare_project / "data/made.json").read_text()) == len(name)


def test_a_number_in_a_file_where_text_is_needed_is_named_with_its_quotes(
    kedro_run: Callable[..., Result], bare_project: Path
) -> None:
    (bare_project / "conf/base/parameters.yml").write_text("training: {optimizer: 1.10}\n")
    assert_one_message(kedro_run(), "training.optimizer: ", "found 1.1", 'in quotes, as optimizer: "1.10"')


def test_of_a_rule_over_several_keys_the_reason_is_told_and_not_all_values(
    kedro_run: Callable[..., Result], bare_project: Path
) -> None:
    broken = "{early_stopping_patience: 2, load_best_model_at_end: false}"
    (bare_project / "conf/base/parameters.yml").write_text(f"training: {broken}\n")
    result = kedro_run()
    assert_one_message(result, "training: early_stopping_patience needs load_best_model_at_end")
    assert "Value error" not in result.output
    assert "found {" not in result.output


def test_params_without_a_value_are_refused(kedro_run: Callable[..., Result]) -> None:
    result = kedro_run("--params", "training")
    assert result.exit_code == 2
    assert "KEY=VALUE" in result.stderr


@pytest.mark.parametrize(
    ("parameter", "key"),
    [
        ("training.epochs=0", "training.epochs"),
        ("training.epoch=1", "training.epoch"),
        ("training.lora.r=many", "training.lora.r"),
    ],
)
def test_a_wrong_value_names_its_key(
    kedro_run: Callable[..., Result], bare_project: Path, parameter: str, key: str
) -> None:
    result = kedro_run("--params", parameter)
    assert_one_message(result, f"{key}: ")
    assert not (bare_project / "data").exists(), "no node may have run"


def test_an_unknown_pipeline_suggests_the_right_one(kedro_run: Callable[..., Result]) -> None:
    assert_one_message(kedro_run("--pipelines", "trainig"), "trainig", "training")


def test_an_unknown_node_is_named(kedro_run: Callable[..., Result]) -> None:
    assert_one_message(kedro_run("--from-nodes", "train_adaptor"), "train_adaptor")


def test_a_broken_file_is_named_once_and_the_run_has_failed(
    kedro_run: Callable[..., Result], bare_project: Path
) -> None:
    result = kedro_run("--pipelines", "ingestion")
    assert_one_message(result, "DRUG-AE.rel:17: 3 fields, expected 8.", "Get the file again.")
    assert statuses(bare_project) == ["FAILED"]


def test_missing_input_is_named(kedro_run: Callable[..., Result], bare_project: Path) -> None:
    result = kedro_run("--pipelines", "evaluation")
    assert_one_message(result, "data/adapter.json", "fix")
    assert statuses(bare_project) == ["FAILED"]


def test_a_full_disk_leaves_what_was_there(
    kedro_run: Callable[..., Result], bare_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kedro_run().exit_code == 0

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/adapter.json")

    monkeypatch.setattr(files.os, "replace", no_space)
    result = kedro_run("--params", "training.epochs=3")
    assert_one_message(result, "No space left on device", "data/adapter.json")
    assert [file.name for file in (bare_project / "data").iterdir()] == ["adapter.json"]
    assert json.loads((bare_project / "data/adapter.json").read_text()) == {"epochs": 1.0}


def test_a_defect_of_the_program_keeps_its_traceback(kedro_run: Callable[..., Result], bare_project: Path) -> None:
    result = kedro_run("--pipelines", "faulty")
    assert isinstance(result.exception, ZeroDivisionError)
    assert statuses(bare_project) == ["FAILED"]


def test_an_explanation_is_found_behind_kedros_own_error() -> None:
    cause = CorpusFormatError("no header.", where="x.txt:1")
    failure = DatasetError("Failed while loading")
    failure.__cause__ = cause
    assert explain(failure) is cause
    assert explain(DatasetError("a defect of a dataset")) is None


def test_a_session_without_command_line_refuses_too(bare_project: Path) -> None:
    with pytest.raises(UnknownEnvironmentError):
        runner_in(bare_project, env="nowhere")()
    with pytest.raises(UnknownParameterError):
        runner_in(bare_project)(params={"nothing": 1})


def test_the_commands_that_the_help_names_exist() -> None:
    text = CliRunner().invoke(cli.run, ["--help"]).output
    for option in ("--pipelines", "--env", "--params", "--from-nodes", "--runner"):
        assert option in text


def test_every_environment_is_listed() -> None:
    assert {"base", "local", "test"} <= set(environments(ROOT / "conf"))


@pytest.mark.parametrize("module", ["kedro", "odin_slm"])
def test_the_installed_command_refuses_an_unknown_environment(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", module, *(["run"] if module == "kedro" else []), "--env", "nowhere"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ODIN_SLM_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "there is no environment 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_terminated_run_is_closed_as_killed(bare_project: Path) -> None:
    package = bare_project / "src"
    package.mkdir()
    (package / "waiting.py").write_text(
        "import time, pathlib\n"
        "from kedro.pipeline import Node, Pipeline\n\n"
        "def wait_long():\n"
        "    pathlib.Path('started').touch()\n"
        "    time.sleep(60)\n"
        "    return 1\n\n"
        "def register_pipelines():\n"
        "    return {'__default__': Pipeline([Node(wait_long, None, 'made', name='wait_long')])}\n"
    )
    program = (
        "from kedro.framework.project import configure_project, pipelines; configure_project('odin_slm');"
        "pipelines.configure('waiting'); from odin_slm.cli.run import run; run([])"
    )
    paths = os.pathsep.join([str(ROOT / "src"), str(package)])
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=bare_project,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (bare_project / "started").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    assert statuses(bare_project) == ["KILLED"]
