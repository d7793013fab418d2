"""One step of Muon over the embedded base's matrices: ours in float32 against torch.optim.Muon in bfloat16.

    .venv/bin/python benchmarks/muon.py

Prints the seconds of both (median of three steps) and their ratio, on this machine, in this run. On a processor with
bf16 units the ratio may turn round.
"""

from __future__ import annotations

import statistics
import time

import torch

from odin_slm.pretraining.muon import Muon

HIDDEN, FEED_FORWARD, LAYERS = 256, 704, 6
STEPS = 3


def matrices() -> list[torch.nn.Parameter]:
    """Return parameters of the shapes of the base's matrices, with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = ([(HIDDEN, HIDDEN)] * 4 + [(FEED_FORWARD, HIDDEN)] * 2 + [(HIDDEN, FEED_FORWARD)]) * LAYERS
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.02) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


def seconds_per_step(optimizer: torch.optim.Optimizer) -> float:
    """Return the median time of a step, after one to warm up."""
    times = []
    for _ in range(STEPS + 1):
        begin = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def main() -> None:
    """Measure and print."""
    ours = seconds_per_step(Muon(matrices(), lr=0.02))
    theirs = seconds_per_step(torch.optim.Muon(matrices(), lr=0.02))
    print(f"odin_slm.pretraining.muon.Muon   {ours:8.3f} s a step")
    print(f"torch.optim.Muon             {theirs:8.3f} s a step")
    print(f"ratio                        {theirs / ours:8.1f}")


if __name__ == "__main__":
    main()
