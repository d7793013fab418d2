"""Data parallelism on a CPU: the threads of one process compute the gradients of different examples.

PyTorch splits every single operation among the cores. At a few hundred features the pieces are so small that the cores
mostly wait for each other, and it is faster to give each core whole examples. Every thread runs its examples through a
replica that shares the model's weights but has its own gradients. The gradients are added in a fixed order, so a run
that is repeated yields the same weights. ``benchmarks/workers.py`` compares both ways.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class DataParallel:
    """A model and its replicas, one per thread.

    Args:
        model: The model whose gradients are computed; it is the first replica.
        count: Number of threads, each of which computes on one core.

    Attributes:
        replicas: The models; all share the weights of the first.
        pool: The threads; None if there is only one replica.
    """

    def __init__(self, model: Any, count: int) -> None:
        self.replicas = [model]
        self.pool: ThreadPoolExecutor | None = None
        if count > 1:
            import torch

            self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
            for _ in range(count - 1):
                replica = copy.deepcopy(model)
                for own, shared in zip(replica.parameters(), model.parameters(), strict=True):
                    own.data = shared.data
                self.replicas.append(replica)

    def backward(self, loss: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
        """Split a batch evenly among the replicas, and add the gradient of a loss to the model's parameters.

        Args:
            loss: Called with a replica and its share of the rows of every tensor; the results are added up.
            *tensors: The batch, (examples, ...) each.

        Returns:
            The loss over all rows, a scalar.
        """

        def work(item: tuple[Any, Sequence[torch.Tensor]]) -> torch.Tensor:
            replica, share = item
            value = loss(replica, *share)
            value.backward()
            return value.detach()

        shares = zip(*(tensor.chunk(len(self.replicas)) for tensor in tensors), strict=True)
        values = self._map(work, list(zip(self.replicas, shares, strict=False)))
        for replica in self.replicas[1:]:
            for own, shared in zip(replica.parameters(), self.replicas[0].parameters(), strict=True):
                if own.grad is not None:
                    shared.grad = own.grad if shared.grad is None else shared.grad.add_(own.grad)
                    own.grad = None
        total: torch.Tensor = sum(values[1:], start=values[0])
        return total

    def evaluate(self, metric: Callable[[Any, Any], float], items: Sequence[Any]) -> list[float]:
        """Return the value of ``metric`` for every item, computed in evaluation mode and without gradients."""
        import torch

        def work(share: tuple[Any, Sequence[Any]]) -> list[float]:
            replica, mine = share
            with torch.inference_mode():
                return [metric(replica, item) for item in mine]

        count = len(self.replicas)
        for replica in self.replicas:
            replica.eval()
        found = self._map(work, [(r, items[i::count]) for i, r in enumerate(self.replicas)])
        for replica in self.replicas:
            replica.train()
        return [found[i % count][i // count] for i in range(len(items))]

    def close(self) -> None:
        """End the threads."""
        if self.pool:
            import torch

            self.pool.shutdown()
            torch.set_num_threads(len(self.replicas))  # later threads inherit the 1 that the pool's threads set

    def _map(self, work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return list((self.pool.map if self.pool else map)(work, items))
