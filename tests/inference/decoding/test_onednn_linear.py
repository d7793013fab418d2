"""Linear layers laid out for the processor: the same sums, used only where they are right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from odin_slm.inference.decoding.onednn_linear import OneDnnLinear, use_onednn
from odin_slm.models.base_model import BaseModel, load_model

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 17), (32, 40)])
def test_a_layer_computes_what_it_computed(shape: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(1)
    linear = torch.nn.Linear(48, 80, bias=bias)
    features = torch.randn(*shape, 48)
    with torch.inference_mode():
        torch.testing.assert_close(OneDnnLinear(linear)(features), linear(features), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_a_model_says_the_same_and_holds_its_weights_once(tiny_base: Path) -> None:
    base = BaseModel("tiny", tiny_base)
    plain, packed = load_model(base), use_onednn(load_model(base))
    ids = torch.randint(0, 512, (3, 40), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    layers = {name: m for name, m in packed.named_modules() if isinstance(m, OneDnnLinear)}
    assert set(layers) == {name for name, m in plain.named_modules() if isinstance(m, torch.nn.Linear)}
    head = layers.pop("lm_head")
    assert head.weight is packed.get_input_embeddings().weight, "the table of embeddings is still needed"
    assert all(layer.weight is None for layer in layers.values())


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
def test_a_product_in_16_bits_rounds_weights_and_features_alone(bias: bool) -> None:
    torch.manual_seed(1)
    linear = torch.nn.Linear(48, 80, bias=bias)
    features = torch.randn(3, 5, 48)
    with torch.inference_mode():
        found = OneDnnLinear(linear, dtype=torch.bfloat16)(features)
        exact = linear(features)
        rounded = torch.nn.functional.linear(features.bfloat16().float(), linear.weight.bfloat16().float(), linear.bias)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rounded, rtol=1e-2, atol=1e-2)
    assert not torch.equal(found, exact)


@needs_onednn
def test_a_model_in_16_bits_says_nearly_the_same_and_keeps_its_head(tiny_base: Path) -> None:
    base = BaseModel("tiny", tiny_base)
    plain, packed = load_model(base), use_onednn(load_model(base), torch.bfloat16)
    ids = torch.randint(0, 512, (3, 40), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found, expected = packed(ids).logits, plain(ids).logits
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
        assert not torch.allclose(found, expected, rtol=1e-4, atol=1e-4), "nothing was rounded"
        states = torch.randn(2, packed.config.hidden_size)
        torch.testing.assert_close(packed.lm_head(states), plain.lm_head(states), rtol=1e-4, atol=1e-4)


def test_a_processor_without_products_in_16_bits_computes_in_float32(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = use_onednn(load_model(BaseModel("tiny", tiny_base)), torch.bfloat16)
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())
    assert "no products in 16 bits" in caplog.text


class _Other(torch.nn.Linear):
    """A layer that does more than multiply, as those of adapters do."""


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.half = torch.nn.Linear(8, 8, dtype=torch.bfloat16)
        self.other = _Other(8, 8)
        self.plain = torch.nn.Linear(8, 8)
        self.embeddings = torch.nn.Embedding(4, 8)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embeddings

    def get_output_embeddings(self) -> None:
        return None


@needs_onednn
def test_only_plain_float32_layers_are_replaced() -> None:
    kinds = {name: type(layer) for name, layer in use_onednn(_Model()).named_children()}
    assert kinds == {
        "half": torch.nn.Linear,
        "other": _Other,
        "plain": OneDnnLinear,
        "embeddings": torch.nn.Embedding,
    }


@pytest.mark.parametrize("how", ["missing", "failing", "wrong"])
def test_a_pytorch_without_it_keeps_its_own_layers(how: str, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "missing":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    elif how == "failing":

        def failing(*_: object) -> None:
            raise AttributeError("no such operator")

        monkeypatch.setattr(OneDnnLinear, "forward", failing)
    else:
        monkeypatch.setattr(OneDnnLinear, "forward", lambda self, features: torch.ones(3, self.out_features))
    model = use_onednn(load_model(BaseModel("tiny", tiny_base)))
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())
