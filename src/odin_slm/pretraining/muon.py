"""Muon in the precision of its parameters.

``torch.optim.Muon`` orthogonalises in bfloat16. A CPU without bf16 units emulates that, many times slower than float32
(``benchmarks/muon.py`` measures the factor). The update is otherwise the same (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Nesterov momentum that is orthogonalised by a quintic Newton-Schulz iteration; for matrices only.

    Args:
        params: Two-dimensional parameters.
        lr: Learning rate; the root mean square of an update's entries is about ``lr * sqrt(max(1, rows / columns) /
            columns)``.
        weight_decay: Decoupled decay, as in AdamW.
        pool: Threads that update different matrices; None updates one matrix after the other.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        pool: Executor | None = None,
    ) -> None:
        self._pool = pool
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        work = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, parameter in work:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        # The matrices of a small model are too small to be split among cores; each thread updates whole matrices.
        list((self._pool.map if self._pool else map)(self._update, work))

    @torch.no_grad()
    def _update(self, item: tuple[dict[str, Any], torch.nn.Parameter]) -> None:
        group, parameter = item
        gradient = parameter.grad
        assert gradient is not None
        momentum: torch.Tensor = self.state[parameter]["momentum"]
        momentum.lerp_(gradient, 1 - _MOMENTUM)
        update = orthogonalise(gradient.lerp(momentum, _MOMENTUM))
        scale = max(1.0, parameter.size(0) / parameter.size(1)) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix whose singular values are near 1 and whose singular vectors are those of ``matrix``."""
    a, b, c = _COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.size(0) > x.size(1)
    if tall:
        x = x.T
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.T if tall else x
