"""Generation on a CPU: batched against one at a time, constrained against free, with the embedded base or another.

    .venv/bin/python benchmarks/generation.py [PROMPTS] [--model DIR] [--adapter DIR] [--corpora DIR] [--rounds N]
    … --batched     only what goes 32 at once: transformers free, the engine free and constrained
    … --constrained only the engine, 32 at once, constrained: no ratio, but many more prompts in the same time

Writes the outputs of test prompts (default 128) in turns: by ``generate()`` of transformers, one prompt at a time, free
and constrained by the same grammar (a logits processor), and 32 at once, padded on the left; by this project's engine
one prompt at a time; and by the engine 32 at once: free, free with the layers that transformers has, and constrained.
What goes one at a time takes every fourth prompt only, as it would take too long for all. The prompts are synthetic, or
with ``--corpora`` sentences of the ADE corpus there; a base that has not learnt the task needs an adapter, or it writes
on to the end of the budget.

Prints the medians of the rounds, the ratios, and how many outputs are equal. Sums in another order differ in their last
digits, so that one token in some thousands may be another where two are as likely. Loading is counted in none. Where
other processes take the cores, the ratios of processor time, summed over all cores, are the ones to read; they do not
count that batches use every core.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as settings.py does: a worker that spins steals the other's core

import torch

from odin_slm.config.parameters import IngestionParams, TaskParams
from odin_slm.core.record import render_prompt
from odin_slm.corpora import ade
from odin_slm.corpora.synthetic.generator import generate as write_documents
from odin_slm.inference.decoding.constraint import Constraint
from odin_slm.inference.generation import Generator, attach, generate
from odin_slm.models.base_model import BaseModel, load_model, resolve_base_model
from odin_slm.models.tokens import output_budget, prompt_ids
from odin_slm.pipelines.ingestion.nodes import write_records
from odin_slm.tasks.grammar import Grammar

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32
EVERY = 4
LIBRARY, LIBRARY_CONSTRAINED = "transformers, one at a time", "transformers, one at a time, constrained"
LIBRARY_BATCHED = f"transformers, {BATCH} at once"
SINGLE, FREE, CONSTRAINED = "engine, one at a time", f"engine, {BATCH} at once", f"engine, {BATCH} at once, constrained"
LAYERS = f"engine, {BATCH} at once, transformers' layers"


def records(count: int, base: BaseModel, corpora: Path | None) -> list[dict[str, Any]]:
    """Return as many records: sentences of ADE, or synthetic ones in equal parts of the styles of the three corpora."""
    if corpora:
        found = ade.parse({file.name: file.read_text("utf-8") for file in (corpora / "ade").iterdir()}).documents
        documents = [document.to_dict() for document in random.Random(3).sample(found, count)]
    else:
        share = math.ceil(count / 3)
        names = ("ade", "bc5cdr", "biored")
        documents = [d.to_dict() for name in names for d in write_documents(share, 5, corpus=name)]
    return [dict(row) for row in write_records(documents, base, TaskParams(), IngestionParams())[0][:count]]


class Library:
    """``generate()`` of transformers."""

    def __init__(self, model: Any, generator: Generator, budget: int) -> None:
        self._model, self._generator, self._tokenizer, self._budget = model, generator, generator.tokenizer, budget

    def write(self, prompts: list[str], batch: int, grammars: Sequence[Grammar] | None = None) -> list[str]:
        """Write the outputs of prompts, so many at once."""
        texts: list[str] = []
        for begin in range(0, len(prompts), batch):
            ids = [prompt_ids(self._tokenizer, prompt) for prompt in prompts[begin : begin + batch]]
            width = max(map(len, ids))
            padded = torch.tensor([[self._tokenizer.pad_token_id] * (width - len(row)) + row for row in ids])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
            processors = [GrammarProcessor(self._generator, grammars[begin], width)] if grammars else None
            with torch.inference_mode():
                written = self._model.generate(
                    input_ids=padded,
                    attention_mask=mask,
                    max_new_tokens=self._budget,
                    do_sample=False,
                    logits_processor=processors,
                )
            if processors:
                texts.append(processors[0].text)
            else:
                texts += self._tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
        return texts


class GrammarProcessor:
    """A logits processor of transformers that holds one row to a grammar."""

    def __init__(self, generator: Generator, grammar: Grammar, begin: int) -> None:
        self._vocabulary = generator._words()
        self._constraint, self._end = Constraint(self._vocabulary, grammar), min(generator._end_tokens)
        self._seen = begin

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave only the allowed tokens."""
        for token in ids[0, self._seen :].tolist():
            self._constraint.consume(token)
        self._seen = ids.shape[1]
        if self._constraint.closed:
            mask = torch.arange(scores.shape[1])[None] == self._end
        else:
            mask = torch.from_numpy(self._vocabulary.allowed([self._constraint]).wide())
        return scores.masked_fill(~mask, -torch.inf)

    @property
    def text(self) -> str:
        """What was written; the end token is no part of it."""
        return self._constraint.text


def measure(
    ways: dict[str, Callable[[], list[str]]], rounds: int
) -> tuple[dict[str, float], dict[str, float], dict[str, list[str]]]:
    """Return seconds and processor seconds for one output of every way, and its outputs."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            begin, begin_processor = time.perf_counter(), time.process_time()
            texts[name] = way()
            seconds[name].append((time.perf_counter() - begin) / len(texts[name]))
            processor[name].append((time.process_time() - begin_processor) / len(texts[name]))
    medians = [{name: statistics.median(values) for name, values in all_.items()} for all_ in (seconds, processor)]
    return medians[0], medians[1], texts


def report(wall: dict[str, float], busy: dict[str, float], texts: dict[str, list[str]]) -> None:
    """Print speeds, ratios and how many outputs are equal."""
    for name in wall:
        print(f"{name:45} {1 / wall[name]:6.2f} examples/s {1000 * busy[name]:6.0f} ms of processor time each")
    if len(wall) > 1:
        print(f"{'':45} {'time':>8} {'processor time':>16}")
    for title, one, other in (
        ("free, against transformers one at a time", LIBRARY, FREE),
        ("free, against transformers batched", LIBRARY_BATCHED, FREE),
        ("constrained, against transformers free by one", LIBRARY, CONSTRAINED),
        ("constrained, against transformers' by one", LIBRARY_CONSTRAINED, CONSTRAINED),
        ("constrained, against transformers batched", LIBRARY_BATCHED, CONSTRAINED),
        ("batched against the engine by one", SINGLE, FREE),
        ("fused layers against transformers'", LAYERS, FREE),
        ("constrained / free", CONSTRAINED, FREE),
    ):
        if one not in wall or other not in wall:
            continue
        print(f"{title:45} {wall[one] / wall[other]:8.2f} {busy[one] / busy[other]:16.2f}")
    for one, other in (
        (LIBRARY, FREE),
        (LIBRARY_BATCHED, FREE),
        (SINGLE, FREE),
        (LAYERS, FREE),
        (LIBRARY_CONSTRAINED, CONSTRAINED),
    ):
        if one not in texts or other not in texts:
            continue
        step = len(texts[other]) // len(texts[one])
        pairs = list(zip(texts[one], texts[other][::step], strict=True))
        print(f"equal outputs: {sum(a == b for a, b in pairs)} of {len(pairs)}, {one} and {other}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("prompts", nargs="?", type=int, default=128)
    parser.add_argument("--model", default="data/06_models/odin-nano", help="folder of a base, or a Hub id")
    parser.add_argument("--adapter", type=Path, help="folder of a LoRA adapter")
    parser.add_argument("--corpora", type=Path, help="folder with ade/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batched", action="store_true", help="leave out what goes one at a time")
    parser.add_argument("--constrained", action="store_true", help="leave out all but the engine's constrained batches")
    options = parser.parse_args()
    base = resolve_base_model(options.model, root=ROOT)
    rows = records(options.prompts // EVERY * EVERY, base, options.corpora)
    prompts = [render_prompt(row["instruction"], row["input"]) for row in rows]
    task = TaskParams().task()
    grammars: list[Any] = [task.grammar(row["instruction"], row["input"]) for row in rows]
    budget = output_budget(base, [row["output"] for row in rows])
    model = load_model(base)
    if options.adapter:
        model = attach(model, base, options.adapter).merge_and_unload()
    generator = Generator(base, options.adapter)
    layers = copy.copy(generator)
    layers._model, layers._instructions = model, {}
    library = Library(model, generator, budget)

    def engine(
        prompts: list[str], batch: int, grammars: list[Any] | None = None, by: Generator = generator
    ) -> list[str]:
        asked: dict[str, Any] = {"batch_size": batch, "max_new_tokens": budget, "grammars": grammars}
        return [output.text for output in generate(base, None, prompts, loaded=by, **asked)]

    ways: dict[str, Callable[[], list[str]]] = {
        LIBRARY: lambda: library.write(prompts[::EVERY], 1),
        LIBRARY_CONSTRAINED: lambda: library.write(prompts[::EVERY], 1, grammars[::EVERY]),
        LIBRARY_BATCHED: lambda: library.write(prompts, BATCH),
        SINGLE: lambda: [engine([prompt], 1)[0] for prompt in prompts[::EVERY]],
        LAYERS: lambda: engine(prompts, BATCH, by=layers),
        FREE: lambda: engine(prompts, BATCH),
        CONSTRAINED: lambda: engine(prompts, BATCH, grammars),
    }
    if options.constrained:
        ways = {CONSTRAINED: ways[CONSTRAINED]}
    elif options.batched:
        ways = {name: ways[name] for name in (LIBRARY_BATCHED, FREE, CONSTRAINED)}
    wall, busy, texts = measure(ways, options.rounds)
    tokens = sum(map(len, generator.tokenizer(texts[CONSTRAINED])["input_ids"])) / len(rows)
    print(f"{base.name}: {len(prompts)} prompts, {tokens:.0f} tokens each, at most {budget}, {options.rounds} rounds")
    print(f"{torch.get_num_threads()} threads")
    report(wall, busy, texts)


if __name__ == "__main__":
    main()
