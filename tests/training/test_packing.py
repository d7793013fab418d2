"""Packing: examples that share a row train as if they were alone, and a model that mixes them is refused."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.test_architectures import base_of
from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import BackendError
from odin_slm.models.backends import with_adapter
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.training import lora as training
from odin_slm.training.collation import Collator, tokenise
from odin_slm.training.lora import train_lora
from odin_slm.training.packing import best_fit_decreasing, keeps_apart, pack, packs
from training.test_training import records

PARAMS = TrainingParams(
    **{"max_seq_length": 400, "max_steps": 4, "batch_size": 4, "logging_steps": 1, "evaluations": 2},
    **{"learning_rate": 0.01, "generation_samples": 0, "lora": LoraParams(r=4)},
    precision="fp32",
)
ALL_LINEAR = PARAMS.model_copy(update={"lora": LoraParams(r=4, target_modules="all-linear")})


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


def varied(count: int) -> list[Any]:
    """Records of three lengths, from 130 to 340 tokens."""
    return [{**record, "input": record["input"] * (1 + 4 * (n % 3))} for n, record in enumerate(records(count))]


def batch_of(base: BaseModel, count: int = 6) -> dict[str, Any]:
    tokenizer = load_tokenizer(base)
    return Collator(tokenizer.pad_token_id)(tokenise(tokenizer, varied(count), 400))


def loss_and_gradients(base: BaseModel, attention: str, inputs: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """The token-weighted mean loss as TRL computes it, and the gradient of every weight."""
    from trl.trainer.utils import add_fused_lm_head

    from odin_slm.training import lm_head

    lm_head.install()
    model = load_model(base, attn_implementation=attention).train()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= 4  # new weights are so small that the context of a token hardly matters
    add_fused_lm_head(model, outputs=("log_probs",))
    output = model(**inputs, use_cache=False, fused_lm_head=True)
    loss = -output.log_probs.sum() / output.label_mask.sum()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("capacity", [400, None])
def test_packed_rows_have_the_loss_and_the_gradients_of_padded_ones(
    base: BaseModel, attention: str, capacity: int | None
) -> None:
    import torch

    padded = batch_of(base)
    packed = pack(padded, capacity)
    assert packed["input_ids"].numel() < 0.85 * padded["input_ids"].numel()
    assert len(packed["input_ids"]) == (1 if capacity is None else 4)
    expected, gradients = loss_and_gradients(base, attention, padded)
    loss, packed_gradients = loss_and_gradients(base, attention, packed)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-3, atol=1e-5)

    # with continuous positions nothing separates the examples, and this test detects it
    width = packed["position_ids"].shape[1]
    mixing = packed | {"position_ids": torch.arange(width).expand_as(packed["position_ids"])}
    mixed, mixed_gradients = loss_and_gradients(base, attention, mixing)
    assert mixed != pytest.approx(expected, rel=1e-4)
    assert any(not torch.allclose(mixed_gradients[name], g, rtol=1e-2, atol=1e-3) for name, g in gradients.items())


@pytest.mark.parametrize("threads", [1, 2])
def test_packed_training_matches_padded_training(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    import torch
    from safetensors.torch import load_file

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = []
    for packing in (True, False):
        params = PARAMS.model_copy(update={"packing": packing, "gradient_accumulation_steps": 2})
        adapter, state = train_lora(base, varied(16), varied(5), tmp_path / str(packing), params, lambda *_: None)
        assert state["packing"] is packing
        found.append((load_file(adapter / "adapter_model.safetensors"), state))
    (packed, one), (padded, two) = found
    torch.testing.assert_close(packed, padded, atol=2e-3, rtol=1e-2)
    names = ["loss", "grad_norm", "eval_loss", *(["num_tokens"] if threads == 1 else [])]
    for key in names:
        ours, theirs = ([entry[key] for entry in state["history"] if key in entry] for state in (one, two))
        assert len(ours) > 1
        assert ours == pytest.approx(theirs, rel=1e-4), key


def test_auto_packs_where_rows_would_be_padded(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    short = PARAMS.model_copy(update={"max_steps": 2, "evaluations": 1})
    own = train_lora(base, varied(8), varied(2), tmp_path, short, lambda *_: None)[1]
    assert (own["cpu_step"], own["packing"]) == (True, False)  # our CPU step pads nothing
    dropping = short.model_copy(update={"lora": LoraParams(r=4, dropout=0.1)})
    assert train_lora(base, varied(8), varied(2), tmp_path, dropping, lambda *_: None)[1]["packing"] is True
    noisy = short.model_copy(update={"neftune_noise_alpha": 5.0})
    assert train_lora(base, varied(8), varied(2), tmp_path, noisy, lambda *_: None)[1]["packing"] is False
    with pytest.raises(ValidationError, match="NEFTune"):
        TrainingParams(packing=True, neftune_noise_alpha=5.0)


@pytest.mark.parametrize("kind", ["qwen-0.5b", "gemma", "phi"])
def test_other_architectures_keep_examples_apart(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    base = base_of(kind, tiny_base, tmp_path / "base")
    model = with_adapter("transformers", base, ALL_LINEAR)
    assert keeps_apart(model, tokenise(load_tokenizer(base), varied(2), 400))


def mixing_attention(module: Any, query: Any, key: Any, value: Any, _mask: Any, **_: Any) -> tuple[Any, None]:
    """Causal attention that ignores masks, like a kernel without variable lengths."""
    import torch

    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return output.transpose(1, 2).contiguous(), None


def of_mixing_attention(base: BaseModel) -> Any:
    from transformers import AttentionInterface

    AttentionInterface.register("mixing", mixing_attention)
    model = with_adapter("transformers", base, PARAMS)
    model.get_base_model().set_attn_implementation("mixing")
    return model


def of_state_space(base: BaseModel) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=512, hidden_size=16, state_size=4, num_hidden_layers=1)
    return get_peft_model(MambaForCausalLM(config), LoraConfig(r=2, target_modules=["in_proj"]))


@pytest.mark.parametrize("mixing", [of_mixing_attention, of_state_space])
def test_a_model_that_mixes_examples_is_refused(base: BaseModel, mixing: Any) -> None:
    model, rows = mixing(base), tokenise(load_tokenizer(base), varied(2), 400)
    with pytest.raises(BackendError, match=r"training\.packing: (llama|mamba) with .* attention mixes") as caught:
        packs(model, rows, PARAMS.model_copy(update={"packing": True}), "transformers")
    assert "false or auto" in caught.value.fix
    assert not packs(model, rows, PARAMS, "transformers")
    assert model.training


def test_a_refusal_ends_the_run_before_the_first_step(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.backends, "with_adapter", lambda *_: of_mixing_attention(base))
    packing = PARAMS.model_copy(update={"packing": True})
    with pytest.raises(BackendError, match="mixes examples"):
        train_lora(base, varied(4), varied(2), tmp_path, packing, lambda *_: None)
    assert not list(tmp_path.rglob("*.safetensors"))


@given(lengths=st.lists(st.integers(1, 600), min_size=1, max_size=40), capacity=st.integers(1, 1000))
def test_every_example_is_in_one_row_and_no_two_rows_could_be_joined(lengths: list[int], capacity: int) -> None:
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(row for members in bins for row in members) == list(range(len(lengths)))
    filled = [sum(lengths[row] for row in members) for members in bins]
    assert all(total <= capacity or len(members) == 1 for total, members in zip(filled, bins, strict=True))
    assert len(filled) == 1 or sum(sorted(filled)[:2]) > capacity
