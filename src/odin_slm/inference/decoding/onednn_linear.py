"""Linear layers whose weights are laid out once as the processor reads them, for decoding on a CPU.

PyTorch hands a float32 product to MKL, which arranges the weights anew at every call and has no AVX-512 kernels for
processors of other makers. oneDNN, which PyTorch carries too, arranges them once (as ``torch.compile`` with freezing
does), and an output then costs about half of the time in its products; ``benchmarks/generation.py`` prints the ratio.
The sums are the same up to the order of their terms.

In 16 bits products are faster on processors with AMX; ``benchmarks/forms.py --precision fp32 bf16`` prints what that is
worth. Then only weights and inputs are rounded, to bfloat16; what lies between the products stays in float32.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

_log = logging.getLogger(__name__)
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class OneDnnLinear(torch.nn.Module):
    """A linear layer for inference.

    Args:
        linear: A float32 layer on the CPU.
        weight: Its weight, shape (outputs, inputs), where the layer shares it and it stays in memory anyway; the
            layer keeps it for those who look at its shape.
        dtype: Data type of the product: float32 or bfloat16. Features and outputs are float32.
    """

    def __init__(
        self, linear: torch.nn.Linear, weight: torch.Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = weight, linear.bias if linear.bias is None else linear.bias.to(dtype)
        self._dtype = dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features of shape (…, inputs) as (…, outputs)."""
        rows = features.reshape(-1, self.in_features).to(self._dtype)
        count = rows.shape[0]
        if padding := bucket(count) - count:
            rows = torch.nn.functional.pad(rows, (0, 0, 0, padding))
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return result[:count].view(*features.shape[:-1], self.out_features).to(features.dtype)


def bucket(rows: int) -> int:
    """Return how many rows to compute for so many: at most an eighth more from 64 rows on.

    oneDNN makes a kernel for every number of rows and keeps it; prompts of ever other lengths would cost the time to
    make them, and the memory.
    """
    step = max(1 << max(rows - 1, 0).bit_length() - 4, 8) if rows > 16 else 1
    return -(-rows // step) * step


def use_onednn(model: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Replace the float32 linear layers of a model on the CPU, in place, where this PyTorch has oneDNN for it.

    The model can be asked afterwards, neither trained nor saved.

    Args:
        model: The model.
        dtype: Data type of the products. The output head stays in float32, as near-ties of tokens are decided there.
    """
    layers = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if type(child) is torch.nn.Linear and child.weight.dtype == torch.float32 and child.weight.device.type == "cpu"
    ]
    if layers and dtype != torch.float32 and not _agrees(layers[0][2], dtype):
        _log.warning("This PyTorch has no products in 16 bits for this processor: they stay in float32.")
        dtype = torch.float32
    if not layers or not _agrees(layers[0][2]):
        return model
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    for parent, name, linear in layers:
        # an output head is often the table of embeddings, which stays; other weights are in memory once
        shared = linear.weight if linear.weight is embeddings else None
        setattr(parent, name, OneDnnLinear(linear, shared, torch.float32 if linear is head else dtype))
    return model


def _agrees(linear: torch.nn.Linear, dtype: torch.dtype = torch.float32) -> bool:
    """Whether oneDNN is there and computes what the layer computes: its operators are no public interface."""
    probe = torch.linspace(-1, 1, 3 * linear.in_features).view(3, -1)
    with torch.inference_mode():
        try:
            if torch.backends.mkldnn.is_available():
                found, expected = OneDnnLinear(linear, dtype=dtype)(probe), linear(probe)
                largest = 1.0 if dtype == torch.float32 else max(1.0, float(expected.abs().max()))
                rtol, atol = _TOLERANCE[dtype], _TOLERANCE[dtype] * largest
                return torch.allclose(found, expected, rtol=rtol, atol=atol)
        except (AttributeError, RuntimeError, NotImplementedError) as error:
            _log.debug("oneDNN is not used: %s", str(error).split("\n")[0])
    return False
