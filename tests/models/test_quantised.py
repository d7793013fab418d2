"""A base that was quantised beforehand: one message before any work, wherever a model is loaded."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError
from odin_slm.inference.generation import Generator
from odin_slm.models import preflight
from odin_slm.models.base_model import BaseModel, load_model
from odin_slm.models.quantised import check_quantised, method_of
from odin_slm.release.merging import merge

LACKING = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "optimum": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "gptqmodel": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "compressed_tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    "torchao": {"quant_method": "torchao", "quant_type": "int8_weight_only"},
}


def quantised(tiny_base: Path, folder: Path, given: Any, key: str = "quantization_config") -> BaseModel:
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: given}))
    return BaseModel("quantised", folder)


@pytest.mark.parametrize("package", LACKING)
def test_what_lacks_is_named_before_any_work(package: str, tiny_base: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    given, method = LACKING[package], LACKING[package]["quant_method"]
    base = quantised(tiny_base, tmp_path / "base", given)
    for load in (load_model, Generator, lambda b: merge(b, tmp_path), lambda b: preflight.check(b, TrainingParams())):
        with pytest.raises(BackendError, match=f"quantised with {method}, and cannot be loaded") as caught:
            load(base)
        assert "16 bit" in caught.value.fix
        assert ("pip install -e '.[gpu]'" in caught.value.fix) == (package == "bitsandbytes")


@pytest.mark.parametrize("given", [{"quant_method": "exl9"}, {"bits": 4}, {"quant_method": None, "bits": 2}])
def test_an_unknown_method_is_refused_and_not_left_out(given: Any, tiny_base: Path, tmp_path: Path) -> None:
    base = quantised(tiny_base, tmp_path / "base", given)
    with pytest.raises(BackendError, match=r"quantised with .*cannot be loaded on this machine \(transformers knows"):
        load_model(base)


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_weights_that_are_read_in_16_bit_here_can_be_trained_on_and_others_cannot(
    method: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.quantizers.auto import AutoHfQuantizer

    config = preflight.read_config(quantised(tiny_base, tmp_path / "base", {"quant_method": method}))
    assert method_of(config) == method
    for dequantised in (True, False):

        def validate(self: Any, *_: Any, here: bool = dequantised, **__: Any) -> None:
            self.quantization_config.dequantize = here

        kind = type(AutoHfQuantizer.from_config(dict(config.quantization_config), pre_quantized=True))
        monkeypatch.setattr(kind, "validate_environment", validate)
        base = BaseModel("q", tmp_path / "base")
        check_quantised(base, config)
        if dequantised:
            check_quantised(base, config, for_training=True)
        else:
            with pytest.raises(BackendError, match=f"quantised with {method}, and no adapter can be trained"):
                check_quantised(base, config, for_training=True)


def test_what_is_quantised_is_not_quantised_again(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = quantised(tiny_base, tmp_path / "base", LACKING["optimum"])
    with pytest.raises(BackendError, match="quantised already, with gptq") as caught:
        preflight.check(base, TrainingParams(load_in_4bit=True))
    assert caught.value.where == "training.load_in_4bit"


def test_a_base_that_is_not_quantised_is_none_of_this(tiny_base: Path) -> None:
    config = preflight.read_config(BaseModel("tiny", tiny_base))
    assert method_of(config) is None
    check_quantised(BaseModel("tiny", tiny_base), config, for_training=True)
