"""Generation on a CPU with the embedded base: batched against one at a time, constrained against free.

    .venv/bin/python benchmarks/generation.py [PROMPTS]

Writes the outputs of synthetic test prompts (default 128) in five ways, in this run: one prompt after the other by
``generate()`` of transformers, one prompt after the other by this project's engine (both for every fourth prompt), and
batched by it: free, free with the linear layers that PyTorch has by itself (inference/onednn_linear.py), and held to
the text by the grammar. Prints the medians of three rounds in turns, the ratios, and
whether the free outputs are equal. Loading the model is counted in none. Where other processes take the cores, the
ratios of processor time, summed over all cores, are the ones to read; they do not count that batches use every core.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as settings.py does: a worker that spins steals the other's core

import torch

from odin_slm.config.parameters import IngestionParams
from odin_slm.core.record import render_prompt
from odin_slm.corpora.synthetic import generate as write_documents
from odin_slm.inference import generation
from odin_slm.inference.onednn_linear import use_onednn
from odin_slm.models.base_model import load_model, load_tokenizer, resolve_base_model
from odin_slm.models.tokens import prompt_ids, token_counter
from odin_slm.pipelines.ingestion.nodes import write_records
from odin_slm.tasks import Grammar
from odin_slm.tasks.extraction.task import ExtractionTask

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
EVERY = 4
"""One prompt in so many is also written alone; that takes too long for all."""


def records(count: int, base: Any) -> list[dict[str, Any]]:
    """Return as many records, in equal parts of the styles of the three corpora."""
    share = math.ceil(count / 3)
    documents = [d.to_dict() for name in ("ade", "bc5cdr", "biored") for d in write_documents(share, 5, corpus=name)]
    return write_records(documents, base, IngestionParams())[0][:count]


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    base = resolve_base_model("data/06_models/odin-nano", root=ROOT)
    rows = records(count, base)
    prompts = [render_prompt(row["instruction"], row["input"]) for row in rows]
    some = prompts[::EVERY]
    grammars = [ExtractionTask().grammar(row["instruction"], row["input"]) for row in rows]
    budget = math.ceil(max(token_counter(base)([row["output"] for row in rows])) * 1.25) + 16
    model, tokenizer = load_model(base), load_tokenizer(base)
    onednn = use_onednn(load_model(base).eval())
    used = onednn
    cores = torch.get_num_threads()

    def library() -> list[str]:
        texts = []
        for prompt in some:
            ids = torch.tensor([prompt_ids(tokenizer, prompt)])
            with torch.inference_mode():
                said = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=budget, do_sample=False
                )
            texts.append(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))
        return texts

    def single() -> list[str]:
        return [engine([prompt], None, 1)[0] for prompt in some]

    def engine(prompts: list[str], grammars: list[Grammar] | None, batch_size: int) -> list[str]:
        options = {"batch_size": batch_size, "max_new_tokens": budget, "grammars": grammars}
        return [output.text for output in generation.generate(base, None, prompts, **options)]

    def without_onednn() -> list[str]:
        nonlocal used
        used = model
        try:
            return engine(prompts, None, 32)
        finally:
            used = onednn

    ways: dict[str, Callable[[], list[str]]] = {
        "transformers, one at a time": library,
        "engine, one at a time": single,
        "engine, batched, free": lambda: engine(prompts, None, 32),
        "engine, batched, free, PyTorch's layers": without_onednn,
        "engine, batched, constrained": lambda: engine(prompts, grammars, 32),
    }
    generation._load, generation.load_tokenizer = lambda *_: used, lambda _: tokenizer
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begin, begin_processor = time.perf_counter(), time.process_time()
            texts[name] = way()
            seconds[name].append((time.perf_counter() - begin) / len(texts[name]))
            processor[name].append((time.process_time() - begin_processor) / len(texts[name]))
    wall = {name: statistics.median(values) for name, values in seconds.items()}
    busy = {name: statistics.median(values) for name, values in processor.items()}
    print(f"{len(prompts)} prompts, at most {budget} tokens each, {cores} threads")
    for name in ways:
        print(f"{name:40} {1 / wall[name]:6.1f} examples/s {1000 * busy[name]:6.0f} ms of processor time each")
    print(f"{'':40} {'time':>8} {'processor time':>16}")
    for title, one, other in (
        ("batched against transformers", "transformers, one at a time", "engine, batched, free"),
        ("batched against engine by one", "engine, one at a time", "engine, batched, free"),
        ("oneDNN against PyTorch's", "engine, batched, free, PyTorch's layers", "engine, batched, free"),
        ("constrained / free", "engine, batched, constrained", "engine, batched, free"),
    ):
        print(f"{title:40} {wall[one] / wall[other]:8.2f} {busy[one] / busy[other]:16.2f}")
    equal = texts["transformers, one at a time"] == texts["engine, one at a time"]
    equal &= texts["engine, one at a time"] == texts["engine, batched, free"][::EVERY]
    equal &= texts["engine, batched, free, PyTorch's layers"] == texts["engine, batched, free"]
    print(f"outputs of free decoding equal {equal}")


if __name__ == "__main__":
    main()
