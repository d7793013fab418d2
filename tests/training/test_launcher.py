"""Training in separate processes: two CPU processes match one, errors are passed on, no process is left behind."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import BackendError, RecordTooLongError
from odin_slm.models.base_model import BaseModel
from odin_slm.training.launcher import launch
from odin_slm.training.lora import total_steps, train_lora
from training.test_training import Killed, records

PARAMS = TrainingParams(
    **{"max_seq_length": 400, "epochs": 3, "batch_size": 2, "logging_steps": 1, "evaluations": 2},
    **{"learning_rate": 0.01, "lora": LoraParams(r=4), "generation_samples": 1},
    precision="fp32",
)
TWO = PARAMS.model_copy(update={"launcher": "accelerate", "num_processes": 2})


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


def figures(state: dict[str, Any], key: str) -> list[float]:
    return [entry[key] for entry in state["history"] if key in entry]


def test_two_processes_killed_and_resumed_match_one_with_twice_the_accumulation(
    base: BaseModel, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    varied = [{**record, "input": record["input"] * (1 + n % 3)} for n, record in enumerate(records(16))]
    logged: list[int] = []

    def kill(step: int, _: dict[str, float]) -> None:
        logged.append(step)
        if step == 8:
            raise Killed

    with pytest.raises(Killed):
        train_lora(base, varied, records(4, 100), tmp_path / "2", TWO, kill)
    assert sorted(set(logged)) == list(range(1, 9))
    assert not [line for line in children() if "odin_slm.training.worker" in line]

    resumed = TWO.model_copy(update={"resume": True})
    two, shared = train_lora(base, varied, records(4, 100), tmp_path / "2", resumed, lambda *_: None)
    accumulating = PARAMS.model_copy(update={"gradient_accumulation_steps": 2})
    one, alone = train_lora(base, varied, records(4, 100), tmp_path / "1", accumulating, lambda *_: None)
    assert (shared["processes"], alone["processes"], shared["resumed_from_step"]) == (2, 1, 6)
    assert shared["steps"] == alone["steps"] == 12
    for key in ("loss", "grad_norm", "eval_loss"):
        assert len(figures(shared, key)) == len(figures(alone, key)) > 1
        assert figures(shared, key) == pytest.approx(figures(alone, key), rel=1e-3)
    assert shared["best_step"] == alone["best_step"]
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (two, one))
    torch.testing.assert_close(first, second, atol=2e-3, rtol=1e-2)


def children() -> list[str]:
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split(None, 1)[0] == str(os.getpid())]


def test_an_error_in_a_process_is_raised_by_the_run(base: BaseModel, tmp_path: Path) -> None:
    short = PARAMS.model_copy(update={"max_seq_length": 64})
    with pytest.raises(RecordTooLongError, match=r"max_seq_length.*exceed 64 tokens") as caught:
        launch(base, records(2), records(2), tmp_path, short, lambda *_: None, "transformers")
    assert caught.value.fix


def test_impossible_launcher_settings_are_refused(base: BaseModel, tmp_path: Path) -> None:
    missing = TWO.model_copy(update={"accelerate_config": tmp_path / "none.yaml"})
    with pytest.raises(BackendError, match=r"does not exist") as caught:
        train_lora(base, records(2), records(2), tmp_path, missing, lambda *_: None)
    assert "accelerate config" in caught.value.fix
    with pytest.raises(ValidationError, match="need launcher"):
        TrainingParams(num_processes=2)
    assert total_steps(100, TrainingParams(batch_size=8, epochs=2), processes=2) == 14
