"""The notebooks run from top to bottom on a finished run, and are committed without outputs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT

ALL = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = ALL[:2]
"""Those that look at a finished run; the third makes one and publishes it, see tests/hub/test_notebook.py."""


def test_there_are_three() -> None:
    assert [path.stem[:2] for path in ALL] == ["01", "02", "03"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_no_outputs_are_committed(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_they_run_on_a_finished_run(
    project: Path, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # a link would be refused: Kedro wants the source inside the project
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    run()
    monkeypatch.setenv("KEDRO_ENV", "test")
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))
    (project / "notebooks").mkdir()
    for path in NOTEBOOKS:
        notebook = nbformat.read(shutil.copy(path, project / "notebooks"), as_version=4)
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": project / "notebooks"}})
        client.execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        assert any("text/html" in output.get("data", {}) for output in outputs), path.name
    # the tracking store is the project's, wherever a kernel starts
    assert not list((project / "notebooks").glob("*.db"))
