"""The benchmark that needs a GPU: its rows run on a tiny model on a CPU, and without a GPU it claims nothing."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from conftest import ROOT
from odin_slm.models.backends import cuda
from training.test_training import records


@pytest.fixture
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks/gpu.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_rows_train_and_are_measured(
    gpu: ModuleType, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "train.json"
    data.write_text(json.dumps(records(40)))
    monkeypatch.setattr(gpu, "DATA", data)
    monkeypatch.setattr(gpu, "V15", gpu.V15 | {"load_in_4bit": False, "optimizer": "adamw_torch"})
    for way in ("predecessor", "packed"):
        found = gpu.measure("transformers", way, str(tiny_base), 5)
        assert found["examples"] > 0, way
        assert 100 < found["tokens"] / found["examples"] < 200, way
        assert found["weights"] == 8_030_261_248


@pytest.mark.slow
def test_without_a_gpu_nothing_is_measured(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    if cuda():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit, match=r"no CUDA device here.*Nothing was measured"):
        gpu.main(3)
    assert not capsys.readouterr().out
