"""Other architectures: the environments' settings train and generate on tiny random models of the same kinds."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.project import settings

from conftest import ROOT
from odin_slm.config.loader import ProjectConfigLoader
from odin_slm.config.parameters import TaskParams, TrainingParams
from odin_slm.core.record import full_text
from odin_slm.inference.generation import generate
from odin_slm.models.base_model import BaseModel, load_tokenizer
from odin_slm.models.preflight import check
from odin_slm.training.lora import train_lora
from training.test_training import records

SIZES = {
    **{"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024},
}
KINDS: dict[str, dict[str, Any]] = {
    # as in their config.json on the Hub, except for the sizes
    "qwen-0.5b": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6},
    "smollm2-135m": {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 100000.0},
    "gemma": {"model_type": "gemma2", "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 512},
    "phi": {"model_type": "phi3", "tie_word_embeddings": False},
}


def base_of(kind: str, tiny_base: Path, folder: Path) -> BaseModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny_base, folder)
    (folder / "model.safetensors").unlink()
    tokenizer = load_tokenizer(BaseModel("tiny", tiny_base))
    values = {**SIZES, **KINDS[kind], "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = AutoConfig.for_model(values.pop("model_type"), bos_token_id=None, **values)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return BaseModel(kind, folder)


def settings_of(kind: str) -> TrainingParams:
    """The environment's own parameters; for a kind without one, those of base with all-linear."""
    env = kind if (ROOT / "conf" / kind).is_dir() else "local"
    values = ProjectConfigLoader(ROOT / "conf", env, **settings.CONFIG_LOADER_ARGS)["parameters"]["training"]
    if env == "local":
        values["lora"]["target_modules"] = "all-linear"
    if values["batch_size"] != "auto":
        values["batch_size"] = 4
    values |= {"max_seq_length": 400, "max_steps": 12, "evaluations": 2, "eval_steps": None, "logging_steps": 1}
    return TrainingParams.model_validate(values | {"learning_rate": 0.02, "warmup_ratio": 0.0})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_and_generates(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    base = base_of(kind, tiny_base, tmp_path / "base")
    params = settings_of(kind)
    found = check(base, params)
    work, task = tmp_path / "work", TaskParams().task()
    adapter, state = train_lora(base, records(16), records(2, 100), work, params, lambda *_: None, task)
    assert state["trainable_parameters"] == found.trainable
    assert state["hyperparameters"]["batch_size"] == found.job.batch_size == (16 if kind == "qwen-0.5b" else 4)
    losses = [entry["loss"] for entry in state["history"] if "loss" in entry]
    assert losses[-1] < losses[0] - 0.05
    prompts = [full_text(record)[0] for record in records(2, 100)]
    with_it, without = (generate(base, folder, prompts, batch_size=2, max_new_tokens=12) for folder in (adapter, None))
    assert [g.text for g in with_it] != [g.text for g in without]
