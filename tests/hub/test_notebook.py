"""The notebook for a rented GPU, run from top to bottom against a Hub on loopback: it publishes, and no token shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT
from hub.conftest import TOKEN
from hub.releases import published
from hub_server import HubServer

PATH = ROOT / "notebooks/03_publish_from_a_rented_gpu.ipynb"


def test_it_trains_and_publishes_and_shows_no_token(
    hub: HubServer, project: Path, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("data", "training")  # and then the machine was gone
    # a link would be refused: Kedro wants the source inside the project
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (project / "notebooks").mkdir()
    environment = {"KEDRO_ENV": "test", "PYTHONPATH": str(project / "src"), "HF_TOKEN": TOKEN}
    environment |= {"PUBLISH": "1", "RESUME": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(shutil.copy(PATH, project / "notebooks"), as_version=4)
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": project / "notebooks"}}).execute()
    state = json.loads((project / "data/08_reporting/test/training_state.json").read_text())
    assert state["resumed_from_step"], "RESUME goes on from the checkpoint"
    for kind, name in (("model", "anna/odin-medical-ner-re-test"), ("dataset", "anna/odin-medical-ner-re-test-data")):
        assert hub.store.get(kind, name).private is True
        staged = project / "data/08_reporting/test/release" / kind
        files = {file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()}
        assert set(published(hub, kind, name)) == files
    assert TOKEN not in nbformat.writes(notebook)
    assert not [file for file in project.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]


def test_it_asks_for_a_token_where_there_is_none_and_holds_none() -> None:
    source = PATH.read_text(encoding="utf-8")
    assert "getpass(" in source
    assert "hf_" not in source
