"""A killed Unsloth training resumes to the same weights; either backend's adapter works in both and in PEFT alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.record import Record
from odin_slm.models.base_model import BaseModel
from odin_slm.training.lora import train_lora

Make = Callable[[int, int], list[Record]]
PARAMS = TrainingParams(
    **{"max_seq_length": 400, "max_steps": 4, "batch_size": 2, "logging_steps": 1, "evaluations": 2},
    **{"precision": "fp32", "learning_rate": 1e-3, "generation_samples": 0, "lora": LoraParams(r=4)},
)
QLORA = PARAMS.model_copy(update={"load_in_4bit": True, "backend": "unsloth"})


class Killed(Exception):
    """Whoever runs the training has had enough."""


def train(base: BaseModel, records: Make, work: Path, params: TrainingParams, kill_at: int = 0) -> tuple[Path, Any]:
    def watch(step: int, _: dict[str, float]) -> None:
        if step == kill_at:
            raise Killed

    return train_lora(base, records(8, 0), records(2, 100), work, params, watch)


@pytest.fixture(scope="module")
def by_unsloth(tmp_path_factory: pytest.TempPathFactory, base: BaseModel, records: Make) -> Path:
    """An adapter on a base in 4 bits."""
    adapter, state = train(base, records, tmp_path_factory.mktemp("unsloth"), QLORA)
    assert (state["backend"], state["hyperparameters"]["load_in_4bit"]) == ("unsloth", True)
    losses = [entry["eval_loss"] for entry in state["history"] if "eval_loss" in entry]
    assert losses[-1] < losses[0]
    return adapter


@pytest.fixture(scope="module")
def by_transformers(tmp_path_factory: pytest.TempPathFactory, base: BaseModel, records: Make) -> Path:
    """An adapter on a base in 32 bits."""
    adapter, state = train(base, records, tmp_path_factory.mktemp("transformers"), PARAMS)
    assert state["backend"] == "transformers"
    return adapter


def test_a_killed_training_resumes_to_the_same_weights(
    tmp_path: Path, base: BaseModel, records: Make, by_unsloth: Path
) -> None:
    with pytest.raises(Killed):
        train(base, records, tmp_path, QLORA, kill_at=3)
    adapter, state = train(base, records, tmp_path, QLORA.model_copy(update={"resume": True}))
    assert state["resumed_from_step"] == 2
    file = "adapter_model.safetensors"
    assert (adapter / file).read_bytes() == (by_unsloth / file).read_bytes()


def test_an_adapter_of_either_backend_has_equal_logits_everywhere(
    tmp_path: Path,
    base: BaseModel,
    records: Make,
    by_unsloth: Path,
    by_transformers: Path,
    program: Callable[..., None],
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM
    from safetensors.torch import load_file

    from odin_slm.models.base_model import load_tokenizer
    from odin_slm.training.collation import tokenise

    adapters = {"unsloth": by_unsloth, "transformers": by_transformers}
    ids = tokenise(load_tokenizer(base), records(1, 7), 400)[0]["input_ids"]
    program(
        "logits.py", json.dumps({name: str(path) for name, path in adapters.items()}), json.dumps(ids), str(tmp_path)
    )
    for name, adapter in adapters.items():
        alone = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
        with torch.no_grad():
            expected = alone(input_ids=torch.tensor([ids])).logits
            with alone.disable_adapter():
                assert (alone(input_ids=torch.tensor([ids])).logits - expected).abs().max() > 0.01
        for backend in ("transformers", "unsloth"):
            found = load_file(tmp_path / f"{name} in {backend}.safetensors")["logits"]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
