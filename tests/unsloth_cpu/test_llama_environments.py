"""The environments v13, v14 and v15 run end to end as they are committed, on a small base of Llama 3.1's shape.

Only the base, the corpora and the number of steps are others. v13 and v14 take a base in bfloat16 and quantise it; v15
takes one that is stored in NF4, as the one that it names is, and once more by Unsloth.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT

SHAPES = {"in 16 bits": False, "in 4 bits": True}
ID = "unsloth/Meta-Llama-3.1-8B-bnb-4bit"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, program: Callable[..., None]) -> Callable[[str], Path]:
    """Return the base that is stored so, under the name of the real one."""
    folder = tmp_path_factory.mktemp("llama")
    for name, in_4_bits in SHAPES.items():
        program("llama_base.py", str(folder / name / ID.partition("/")[2]), json.dumps(in_4_bits))
    return lambda name: folder / name / ID.partition("/")[2]


@pytest.mark.parametrize(
    ("env", "stored", "backend"),
    [
        ("v13", "in 16 bits", "auto"),
        ("v14", "in 16 bits", "auto"),
        ("v15", "in 4 bits", "auto"),
        ("v15", "in 4 bits", "unsloth"),
    ],
)
def test_the_environment_runs_from_corpora_to_a_staged_release(
    tmp_path: Path, llama: Callable[[str], Path], sample_corpora: Path, env: str, stored: str, backend: str
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("credentials*"))
    (tmp_path / "src").mkdir()
    changed = [f"base_model={llama(stored)}", f"corpora={sample_corpora}", "training.max_steps=3"]
    changed += [f"publishing.base_model_id={ID}"]  # the folder stands for it
    changed += [f"training.backend={backend}"] if backend != "auto" else []
    command = [sys.executable, "-m", "kedro", "run", "--env", env, "--params", ",".join(changed)]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("KEDRO_ENV", "MLFLOW_TRACKING_URI")
    }
    environment |= {"ODIN_SLM_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=400, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    state = _read(tmp_path, "08_reporting", env, "training_state.json")
    assert (state["backend"], state["steps"]) == ({"auto": "transformers"}.get(backend, backend), 3)
    committed = yaml.safe_load((ROOT / f"conf/{env}/parameters_training.yml").read_text(encoding="utf-8"))["training"]
    lora = committed.pop("lora")
    assert state["hyperparameters"] | committed == state["hyperparameters"]
    assert state["hyperparameters"]["lora"] | lora == state["hyperparameters"]["lora"]
    assert "f1" in _read(tmp_path, "08_reporting", env, "evaluation_results.json")["entity_metrics"]["micro"]
    release = tmp_path / "data/08_reporting" / env / "release/model"
    assert {"LICENSE", "README.md", "adapter_model.safetensors"} <= {file.name for file in release.iterdir()}
    assert json.loads((release / "adapter_config.json").read_text(encoding="utf-8"))["r"] == lora["r"]


def _read(project: Path, layer: str, env: str, name: str) -> Any:
    return json.loads((project / "data" / layer / env / name).read_text(encoding="utf-8"))
