"""Linear layers whose weights are laid out once as the processor reads them, for decoding on a CPU.

PyTorch hands a float32 product to MKL, which arranges the weights anew at every call and has no AVX-512 kernels for
processors of other makers. oneDNN, which PyTorch carries too, arranges them once (as ``torch.compile`` with freezing
does), and an output then costs about half of the time in its products; ``benchmarks/generation.py`` prints the ratio.
The sums are the same up to the order of their terms.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

_log = logging.getLogger(__name__)
_TOLERANCE = 1e-4


class OneDnnLinear(torch.nn.Module):
    """A linear layer for inference.

    Args:
        linear: A float32 layer on the CPU.
        weight: Its weight, shape (outputs, inputs), where the layer shares it and it stays in memory anyway; the
            layer keeps it for those who look at its shape.
    """

    def __init__(self, linear: torch.nn.Linear, weight: torch.Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = weight, linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features of shape (…, inputs) as (…, outputs)."""
        rows = features.reshape(-1, self.in_features)
        count = rows.shape[0]
        if padding := bucket(count) - count:
            rows = torch.nn.functional.pad(rows, (0, 0, 0, padding))
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return result[:count].view(*features.shape[:-1], self.out_features)


def bucket(rows: int) -> int:
    """Return how many rows to compute for so many: at most an eighth more from 64 rows on.

    oneDNN makes a kernel for every number of rows and keeps it; prompts of ever other lengths would cost the time to
    make them, and the memory.
    """
    step = max(1 << max(rows - 1, 0).bit_length() - 4, 8) if rows > 16 else 1
    return -(-rows // step) * step


def use_onednn(model: Any) -> Any:
    """Replace the float32 linear layers of a model on the CPU, in place, where this PyTorch has oneDNN for it.

    The model can be asked afterwards, neither trained nor saved.
    """
    layers = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if type(child) is torch.nn.Linear and child.weight.dtype == torch.float32 and child.weight.device.type == "cpu"
    ]
    if not layers or not _agrees(layers[0][2]):
        return model
    embeddings = model.get_input_embeddings().weight
    for parent, name, linear in layers:
        # an output head is often the table of embeddings, which stays; other weights are in memory once
        setattr(parent, name, OneDnnLinear(linear, linear.weight if linear.weight is embeddings else None))
    return model


def _agrees(linear: torch.nn.Linear) -> bool:
    """Whether oneDNN is there and computes what the layer computes: its operators are no public interface."""
    probe = torch.linspace(-1, 1, 3 * linear.in_features).view(3, -1)
    with torch.inference_mode():
        try:
            if torch.backends.mkldnn.is_available():
                found, expected = OneDnnLinear(linear)(probe), linear(probe)
                return torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE)
        except (AttributeError, RuntimeError, NotImplementedError) as error:
            _log.debug("oneDNN is not used: %s", str(error).split("\n")[0])
    return False
