"""Another task, offered by an installed package, goes the whole way: data, training, evaluation, release, service."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from odin_slm.config.parameters import TaskParams
from odin_slm.config.parameters.task import _task
from odin_slm.core.errors import ServingError
from odin_slm.inference.served_model import resolve_model
from odin_slm.tasks import load, task_class, task_names

CODE = Path(__file__).parent / "another" / "first_word.py"


@pytest.fixture
def first_word(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with the task, installed beside the project's own."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(CODE, site)
    installed = site / "first_word-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: first-word\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[odin_slm.tasks]\nfirst_word = first_word:FirstWordTask\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    _task.cache_clear()
    yield site
    _task.cache_clear()


def test_it_goes_from_raw_corpora_to_a_registered_and_served_model(
    first_word: Path, project: Path, run: Callable[..., dict[str, Any]]
) -> None:
    assert len(CODE.read_text().splitlines()) < 60
    (project / "conf/test/parameters_task.yml").write_text("# Another task.\ntask: first_word\n")
    run(params={"evaluation": {"num_samples": 6, "max_new_tokens": 8, "bootstrap_resamples": 100}})

    train = json.loads((project / "data/05_model_input/test/train.json").read_text())
    assert {record["instruction"] for record in train} == {"Write the first word."}
    assert all(record["output"] == record["input"].split()[0] for record in train)
    results = json.loads((project / "data/08_reporting/test/evaluation_results.json").read_text())
    assert results["decoding"] == "free", "the task has no grammar, so nothing held the outputs"
    assert "free" not in results
    low, high = results["intervals"]["accuracy"]
    assert low <= results["accuracy"] <= high
    (tracked,) = mlflow.search_runs(
        experiment_names=["odin-slm-test"], output_format="list", search_all_experiments=False
    )
    assert tracked.data.metrics["accuracy"] == pytest.approx(results["accuracy"])
    release = project / "data/08_reporting/test/release/model"
    assert "naming the first word" in (release / "README.md").read_text().lower()
    assert json.loads((release / "task.json").read_text())["name"] == "first_word"

    model = mlflow.pyfunc.load_model("models:/odin-medical-ner-re-test@champion")
    answers = model.predict(["Cough and rash developed."], params={"max_new_tokens": 4})
    assert list(answers.columns) == ["output", "finished", "error"]


def test_a_folder_whose_task_is_not_installed_says_so(tmp_path: Path, tiny_base: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "model")
    (tmp_path / "model/task.json").write_text('{"name": "os", "options": {}}')
    with pytest.raises(ServingError, match=r"task\.json: there is no task 'os'; there are extraction"):
        resolve_model(str(tmp_path / "model"), root=tmp_path)


def test_tasks_are_found_by_name_and_their_options_are_checked(first_word: Path) -> None:
    assert task_names() == ("extraction", "first_word", "spelling")
    task = TaskParams.model_validate("first_word").task()
    assert load(task.to_dict()) == task
    assert task_class("first_word").title == "naming the first word"
    with pytest.raises(ValueError, match="there is no task 'first_words'; there are extraction, first_word, spelling"):
        TaskParams(name="first_words")
    with pytest.raises(ValueError, match="the task first_word takes no options, found words"):
        TaskParams(name="first_word", options={"words": 2})
