"""One gradient of the embedded base: examples shared among threads against operations shared among threads.

    .venv/bin/python benchmarks/workers.py

Prints the tokens per second of both (median of five steps of 16 x 256 tokens) and their ratio, on this machine, in
this run. With one core there is nothing to share.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from odin_slm.training.data_parallel import DataParallel

ROWS, LENGTH, STEPS = 16, 256, 5


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy over all positions, divided by the number of the whole batch."""
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum") / (ROWS * LENGTH)


def tokens_per_second(step: Callable[[], object]) -> float:
    """Return the median rate of a step, after one to warm up."""
    times = []
    for _ in range(STEPS + 1):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return ROWS * LENGTH / statistics.median(times[1:])


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=5120, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
        )
    )  # fmt: skip
    ids = torch.randint(5120, (ROWS, LENGTH))
    cores = torch.get_num_threads()
    operations = tokens_per_second(lambda: DataParallel(model, 1).backward(loss_of, ids))
    workers = DataParallel(model, cores)
    examples = tokens_per_second(lambda: workers.backward(loss_of, ids))
    workers.close()
    print(f"{cores} threads share every operation  {operations:8.0f} tokens/s")
    print(f"{cores} threads share the examples     {examples:8.0f} tokens/s")
    print(f"ratio                            {examples / operations:8.2f}")


if __name__ == "__main__":
    main()
