"""Adapters on embeddings or head of a base that shares their weights: every way of using one gives one answer."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from odin_slm.core.errors import AdapterError
from odin_slm.inference.generation import Generator, attach
from odin_slm.inference.vllm import _rank
from odin_slm.models.base_model import BaseModel, load_model
from odin_slm.release.merging import merge

IDS = torch.tensor([[12, 40, 41, 42, 5, 6]])
CASES: dict[str, tuple[bool, dict[str, Any]]] = {
    "head trained": (False, {"modules_to_save": ["lm_head"]}),
    "embeddings trained": (False, {"modules_to_save": ["embed_tokens"]}),
    "adapter of the head": (False, {"target_modules": ["q_proj", "lm_head"]}),
    "adapter of the embeddings": (False, {"target_modules": ["q_proj", "embed_tokens"]}),
    "trained as one": (True, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "some tokens trained": (True, {"trainable_token_indices": [5, 6]}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_merged_says_what_the_adapter_says(case: str, tiny_base: Path, tmp_path: Path) -> None:
    one, options = CASES[case]
    base, adapter, merged = BaseModel("tiny", tiny_base), tmp_path / "adapter", tmp_path / "merged"
    torch.manual_seed(0)
    model = get_peft_model(
        load_model(base), LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **options})
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(adapter)
    with torch.no_grad(), warnings.catch_warnings():
        wanted = model.eval()(IDS).logits
        assert float((wanted - load_model(base)(IDS).logits).abs().max()) > 0.1
        torch.testing.assert_close(attach(load_model(base), base, adapter).eval()(IDS).logits, wanted)
        torch.testing.assert_close(Generator(base, adapter)._model(IDS).logits, wanted)
        merge(base, adapter).save_pretrained(merged)
        assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is one
        again = load_model(BaseModel("merged", merged))(IDS).logits
    torch.testing.assert_close(again, wanted, atol=0.05, rtol=0.02)  # in 16 bit
    if "target_modules" not in options:
        with pytest.raises(AdapterError, match=r"vLLM does not apply.*publishing\.export=merged"):
            _rank(adapter)
