"""Data-parallel gradients by threads of one process, for models whose matrices are too small to share among cores.

PyTorch divides every single operation among the cores. At a few hundred features the pieces are so small that cores
wait for each other: whole examples are the better share. Each thread runs its examples through a replica that shares
the weights and owns its gradients; the gradients are then added in a fixed order, so that equal runs give equal
weights.
``benchmarks/workers.py`` measures both ways.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Workers:
    """Threads with a replica of the model each.

    Attributes:
        pool: The threads, each of which computes on one core; None where there is one worker.
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
        """Add the gradient of a loss to the model's parameters.

        Args:
            loss: Called with a replica and a share of the rows of every tensor; its values over the shares are added.
            *tensors: Batch, (examples, ...) each.

        Returns:
            The loss over all rows, a scalar.
        """
        shares = zip(*(tensor.chunk(len(self.replicas)) for tensor in tensors), strict=True)
        return self.accumulate(loss, [[share] for share in shares])

    def accumulate(
        self, loss: Callable[..., torch.Tensor], shares: Sequence[Sequence[Sequence[torch.Tensor]]]
    ) -> torch.Tensor:
        """Add the gradient of a loss over several groups of tensors, each with shapes of its own.

        Args:
            loss: Called with a replica and the tensors of a group; its values are added.
            shares: The groups of each replica, in the order in which it takes them; at most one share per replica.

        Returns:
            The loss over all groups, a scalar.
        """

        def work(item: tuple[Any, Sequence[Sequence[torch.Tensor]]]) -> torch.Tensor:
            replica, groups = item
            total: Any = 0.0
            for group in groups:
                value = loss(replica, *group)
                value.backward()
                total = total + value.detach()
            return total

        values = self._map(work, list(zip(self.replicas, [share for share in shares if share], strict=False)))
        for replica in self.replicas[1:]:
            for own, shared in zip(replica.parameters(), self.replicas[0].parameters(), strict=True):
                if own.grad is not None:
                    shared.grad = own.grad if shared.grad is None else shared.grad.add_(own.grad)
                    own.grad = None
        total: torch.Tensor = sum(values[1:], start=values[0])
        return total

    def evaluate(self, figure: Callable[[Any, Any], float], items: Sequence[Any]) -> list[float]:
        """Return a figure of every item, each computed by one replica in evaluation mode without gradients."""
        import torch

        def work(share: tuple[Any, Sequence[Any]]) -> list[float]:
            replica, mine = share
            with torch.inference_mode():
                return [figure(replica, item) for item in mine]

        count = len(self.replicas)
        with self._in_evaluation():
            found = self._map(work, [(r, items[i::count]) for i, r in enumerate(self.replicas)])
        return [found[i % count][i // count] for i in range(len(items))]

    def close(self) -> None:
        """End the threads."""
        if self.pool:
            import torch

            self.pool.shutdown()
            torch.set_num_threads(len(self.replicas))  # what a thread sets is also what later threads begin with

    def _map(self, work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        return list((self.pool.map if self.pool else map)(work, items))

    @contextmanager
    def _in_evaluation(self) -> Iterator[None]:
        for replica in self.replicas:
            replica.eval()
        yield
        for replica in self.replicas:
            replica.train()
