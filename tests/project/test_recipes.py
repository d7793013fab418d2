"""The recipes of CONTRIBUTING.md for a metric, a task and a pipeline, with the very code that stands there.

That for a corpus is followed to its end in tests/project/test_adding_a_corpus.py.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml
from kedro.io import DataCatalog

from conftest import ROOT
from odin_slm import pipelines, tasks
from odin_slm.config import parameters
from odin_slm.config.parameters import TaskParams
from odin_slm.config.parameters.task import _task
from odin_slm.core.document import Document, Mention, Relation
from odin_slm.tasks.extraction.format import Entity, Extraction, render
from odin_slm.tasks.extraction.metrics import results, rules, score


def blocks(title: str) -> list[tuple[str, str]]:
    """Where each block of a section belongs, and what it holds."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r'^```\w+ title="([^"]*)"\n(.*?)^```', section, re.MULTILINE | re.DOTALL)


def laid_out(title: str, folder: Path) -> Path:
    """Write the files of a section into a folder; return that of the package."""
    for name, content in blocks(title):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return folder / "src/odin_slm"


def test_the_metric_counts_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, function), (_, listing) = blocks("Add a metric")
    names = dict(vars(rules))
    exec(function, names)
    added = re.search(r'Rule\("long_names".*\)', listing)
    assert added
    monkeypatch.setattr(results, "RULES", (*rules.RULES, eval(added[0], names)))
    gold = render(Extraction((Entity("Drug", "aspirin"), Entity("Symptom", "joint pain"))))
    row = {"id": "1", "input": "aspirin, joint pain", "gold": gold, "prediction": gold.replace("joint", "back")}
    found = score([row], resamples=2)["variants"]["long_names"]["entity_metrics"]["micro"]
    assert (found["tp"], found["fp"], found["fn"]) == (0, 1, 1)


def test_the_task_answers_what_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = laid_out("Add a task", tmp_path)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(package / "tasks")])
    _task.cache_clear()
    chosen = yaml.safe_load((tmp_path / "conf/adverse-effect/parameters_task.yml").read_text())["task"]
    task = TaskParams.model_validate(chosen).task()
    mentions = (Mention(0, 5, "cough", "Symptom", ("a",)), Mention(12, 21, "enalapril", "Drug", ("b",)))
    document = Document("1", "cough after enalapril", "ade", "1", None, mentions, (Relation("causes", "b", "a"),))
    (record,) = task.records(document, task.instruction("ade"), relation_mentions="canonical")
    assert record["output"] == "yes"
    assert task.faults("perhaps") == ("perhaps",)
    _task.cache_clear()


def test_the_pipeline_counts_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = laid_out("Add a pipeline", tmp_path)
    monkeypatch.setattr(pipelines, "__path__", [*pipelines.__path__, str(package / "pipelines")])
    monkeypatch.setattr(parameters, "__path__", [*parameters.__path__, str(package / "config/parameters")])
    model = importlib.import_module("odin_slm.config.parameters.frequent_names").FrequentNamesParams
    monkeypatch.setattr(parameters, "FrequentNamesParams", model, raising=False)
    pipeline = importlib.import_module("odin_slm.pipelines.frequent_names").create_pipeline()
    values = yaml.safe_load((tmp_path / "conf/base/parameters_frequent_names.yml").read_text())["frequent_names"]
    (entry,) = yaml.safe_load((tmp_path / "conf/base/catalog_frequent_names.yml").read_text()).items()
    assert pipeline.outputs() == {entry[0]}
    counted = render(Extraction((Entity("Drug", "aspirin"),)))
    inputs = {"train": [{"output": counted}] * 2, "params:task": TaskParams(), "params:frequent_names": model(**values)}
    (node,) = pipeline.nodes
    saved = DataCatalog.from_config({entry[0]: {**entry[1], "filepath": str(tmp_path / "names.json")}})
    saved.save(entry[0], node.run(inputs)[entry[0]])
    assert saved.load(entry[0]) == {"Drug aspirin": 2}
