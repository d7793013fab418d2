"""Losses and gradients of both backends agree, with the base in 32, 16 and 4 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from odin_slm.core.record import Record
from odin_slm.models.base_model import BaseModel

CASES = {
    "float32": ({"precision": "fp32"}, 1e-5, 1e-5),
    "bfloat16": ({"dtype": "bfloat16", "precision": "bf16"}, 2e-3, 0.03),
    "NF4 in float32": ({"load_in_4bit": True, "precision": "fp32"}, 1e-5, 0.005),
    "NF4 in bfloat16": ({"load_in_4bit": True, "dtype": "bfloat16", "precision": "bf16"}, 2e-3, 0.03),
}
"""What is set; how far the losses may be apart; how far the gradients, as a share of their norm."""


@pytest.fixture(scope="module")
def computed(
    tmp_path_factory: pytest.TempPathFactory,
    base: BaseModel,
    program: Callable[..., None],
    records: Callable[[int, int], list[Record]],
) -> Path:
    """A folder for each backend, with all cases."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "records.json").write_text(json.dumps(records(4, 0)), encoding="utf-8")
    for backend in ("transformers", "unsloth"):
        (folder / backend).mkdir()
        shared = {"max_seq_length": 400, "batch_size": 4, "packing": False, "lora": {"r": 8}, "backend": backend}
        cases = json.dumps({name: {**shared, **values} for name, (values, *_) in CASES.items()})
        program("one_step.py", backend, base.location, cases, str(folder / "records.json"), str(folder / backend))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_agree(name: str, computed: Path) -> None:
    from safetensors import safe_open

    def step(backend: str) -> tuple[dict[str, str], dict[str, Any]]:
        with safe_open(computed / backend / f"{name}.safetensors", framework="pt") as file:
            return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    values, losses_apart, gradients_apart = CASES[name]
    (stated, expected), (found, gradients) = step("transformers"), step("unsloth")
    assert found["kinds"] == stated["kinds"]
    assert ("Linear4bit" in found["kinds"]) == bool(values.get("load_in_4bit"))
    for loss in ("loss", "eval_loss"):
        assert float(found[loss]) == pytest.approx(float(stated[loss]), abs=losses_apart), loss
    assert gradients.keys() == expected.keys()
    apart = sum(float((gradients[key] - expected[key]).norm() ** 2) for key in expected) ** 0.5
    whole = sum(float(gradient.norm() ** 2) for gradient in expected.values()) ** 0.5
    print(f"{name}: losses {found['loss']} and {stated['loss']}, gradients {apart / whole:.1e} of their norm apart")
    assert apart < gradients_apart * whole
