"""The benchmark of the 8B shape: its base is stored as transformers stores one, and its training is measured."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import ROOT
from odin_slm.core.record import Record
from odin_slm.models.base_model import BaseModel, check_folder, load_model
from unsloth_cpu.llama_base import CUT, make_llama


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shape_8b", ROOT / "benchmarks/shape_8b.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    small = {**CUT, "vocab_size": 5120}
    assert benchmark.write_base(folder, benchmark.SHAPE | small) > 2 * 2 * 5120 * 256, "the head is in 16 bits"
    return folder


def test_the_base_is_stored_as_transformers_stores_what_it_quantises(folder: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    def stored(files: Path) -> dict[str, Any]:
        found = {}
        for file in files.glob("*.safetensors"):
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    tensor = tensors.get_tensor(name)
                    found[name] = tensor.dtype, None if "quant_state" in name else tuple(tensor.shape)
        return found

    check_folder(folder)
    assert stored(folder) == stored(make_llama(tmp_path / "base", in_4_bits=True))
    layer = load_model(BaseModel("base", folder)).model.layers[1].mlp.down_proj
    assert type(layer).__name__ == "Linear4bit"
    assert layer.weight.quant_state.nested, "the scales are quantised, too"


def test_a_training_on_it_is_measured(
    benchmark: ModuleType,
    folder: Path,
    records: Callable[[int, int], list[Record]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps(records(5, 0)), encoding="utf-8")
    monkeypatch.setattr(benchmark, "RECORDS", file)
    found = benchmark.measure("transformers", str(folder), 2)
    assert found["moved"] == [14, 14], "seven matrices in each of two blocks"
    assert found["loss"] == pytest.approx([8.5, 8.5], abs=0.3), "that of guessing among 5,120 tokens"
    assert len(found["steps"]) == 1
    benchmark.show(found)
    assert "14 of 14 matrices" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="not finite, or zero"):
        benchmark.show(found | {"grad_norm": [0.1, 0.0]})
    with pytest.raises(SystemExit, match="did not change"):
        benchmark.show(found | {"moved": [13, 14]})
