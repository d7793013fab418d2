"""The fused layers of a Llama: the same sums as transformers', used only where they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from conftest import ROOT
from odin_slm.inference.decoding.fused_llama import FusedLlama, fuse
from odin_slm.inference.decoding.kv_cache import BatchCache
from odin_slm.inference.generation import _padded
from odin_slm.models.base_model import load_model, resolve_base_model

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def pair(**options: Any) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """The same random Llama twice, once fused."""
    config = LlamaConfig(**{**SHAPE, **options})
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(LlamaForCausalLM(config).eval())
    return models[0], fuse(models[1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 1},
        {"head_dim": 16},
        {"tie_word_embeddings": True},
        {"rope_parameters": SCALED},
    ],
    ids=str,
)
def test_logits_are_those_of_transformers(options: dict[str, Any]) -> None:
    plain, fused = pair(**options)
    assert isinstance(fused.model, FusedLlama)
    ids = torch.randint(1, 97, (3, 40), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        torch.testing.assert_close(fused(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)


def test_rows_of_unequal_length_go_on_from_the_cache_as_alone() -> None:
    plain, fused = pair()
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15]]
    width, steps = 7, [[20, 21, 22], [30, 31, 32]]
    padding = torch.tensor([width - len(prompt) for prompt in prompts])
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    cache = BatchCache(2, torch.arange(3), 20, padding)
    mask = (torch.arange(width) >= padding[:, None]).long()
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    written: list[list[int]] = [list(prompt) for prompt in prompts]
    with torch.inference_mode():
        for step in [None, *steps]:
            if step is not None:
                ids = torch.tensor(step)[:, None]
                mask = torch.cat([mask, mask.new_ones(3, 1)], 1)
                positions = positions[:, -1:] + 1
                written = [[*row, token] for row, token in zip(written, step, strict=True)]
            said = fused(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache).logits
            assert said.isfinite().all(), "padding sees nothing, and stays a number"
            for row, tokens in enumerate(written):
                expected = plain(torch.tensor([tokens])).logits[0, -1]
                torch.testing.assert_close(said[row, -1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("columns", [8, 64], ids=["memory grows", "there is room"])
@pytest.mark.parametrize("gaps", ["left", "closed"])
def test_rows_that_read_unequally_many_tokens_go_on_as_alone(columns: int, gaps: str) -> None:
    plain, fused = pair()
    written = [[5, 6, 7], [12, 13], [15]]
    unread, mask, positions = written, torch.ones(3, 0, dtype=torch.long), torch.full((3, 1), -1)
    cache = BatchCache(2, torch.arange(3), columns, torch.tensor([0, 1, 2]))
    steps = ([[20], [30, 31, 32, 33], [40]], [[21, 22, 23, 24, 25], [34], [41, 42]], [[26], [35], [43, 44, 45]])
    with torch.inference_mode():
        for step in steps:
            if mask.shape[1]:
                mask = cache.close_gaps(mask, all_of_them=gaps == "closed")
            if gaps == "closed":
                assert mask.shape[1] == mask.sum(-1).max()
            ids, new, positions = _padded(unread, positions)
            mask = torch.cat([mask, new], 1)
            said = fused(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache).logits
            positions = positions[:, -1:]
            for row, tokens in enumerate(written):
                expected = plain(torch.tensor([tokens])).logits[0, -1]
                torch.testing.assert_close(said[row, -1], expected, rtol=1e-4, atol=1e-4)
            unread = step
            written = [[*row, *more] for row, more in zip(written, step, strict=True)]


def test_the_embedded_base_and_what_it_is_asked_for_stay() -> None:
    base = resolve_base_model("data/06_models/odin-nano", root=ROOT)
    plain, fused = load_model(base), fuse(load_model(base))
    assert fused.lm_head.weight is fused.get_input_embeddings().weight, "head and embeddings are one table still"
    assert sum(p.numel() for p in fused.parameters()) == sum(p.numel() for p in plain.parameters())
    ids = torch.randint(4, 5000, (2, 64), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        torch.testing.assert_close(fused(ids).logits, plain(ids).logits, rtol=1e-3, atol=1e-3)


def test_other_models_stay_as_they_are() -> None:
    biased = LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True))
    other = LlamaForCausalLM(LlamaConfig(**SHAPE, hidden_act="gelu"))
    mistral = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))
    for model in (biased, other, mistral):
        inside = model.model
        assert fuse(model).model is inside


def test_a_wrapped_product_is_not_fused() -> None:
    from peft import LoraConfig, get_peft_model

    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    inside = model.model
    assert fuse(model).model is inside, "an adapter that is not merged would be lost"
