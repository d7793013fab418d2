"""Forms of an output (``task.options.form``) and precisions of reading: scores, differences, and what they cost.

    .venv/bin/python benchmarks/forms.py RECORDS.json ADAPTER … [--precision fp32 bf16] [--count N] [--base DIR]
        [--work DIR]

RECORDS is a split, such as ``data/05_model_input/smollm2-135m/val.json``; of it N records are drawn (default 160).
Every adapter reads them in every precision, held by the grammar of the form that its ``task.json`` names, and is scored
by the task. The first one is what the others are compared with, paired by document. Each also reads the eight records
whose texts are in the middle by length once more, one by one, which is what a single reader waits for; ``inline`` does
so with and without drafts of the text that it repeats.

With ``--work`` outputs are kept in a folder, and a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as settings.py does: a worker that spins steals the other's core

from odin_slm.core.record import Record, render_prompt
from odin_slm.inference import generation
from odin_slm.inference.generation import Generator, generate
from odin_slm.inference.served_model import task_of
from odin_slm.models.base_model import BaseModel, resolve_base_model
from odin_slm.models.tokens import output_budget
from odin_slm.tasks import Task

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32
SINGLE = 8
NO_DRAFT = 0


def rows_of(records: list[Record], outputs: list[str]) -> list[dict[str, Any]]:
    """Return rows of a predictions file."""
    return [
        {**{name: record[name] for name in ("id", "source", "document_id", "input")}}
        | {"gold": record["output"], "prediction": output}
        for record, output in zip(records, outputs, strict=True)
    ]


def asked(task: Task, records: list[Record], base: BaseModel) -> dict[str, Any]:
    """Return prompts, grammars and budget."""
    return {
        "prompts": [render_prompt(one["instruction"], one["input"]) for one in records],
        "grammars": [task.grammar(one["instruction"], one["input"]) for one in records],
        "max_new_tokens": output_budget(base, [task.taught(one)["output"] for one in records]),
    }


def one_by_one(generator: Generator, base: BaseModel, task: Task, records: list[Record], draft: int) -> float:
    """Return the seconds that a record takes, each asked for by itself."""
    kept, generation._DRAFT = generation._DRAFT, draft
    begun = time.perf_counter()
    for record in records:
        generate(base, None, batch_size=1, loaded=generator, **asked(task, [record], base))
    generation._DRAFT = kept
    return (time.perf_counter() - begun) / len(records)


def read(
    base: BaseModel, adapter: Path, precision: Any, records: list[Record], work: Path | None
) -> tuple[Task, list[dict[str, Any]]]:
    """Read the records with an adapter, print what that took, and return its task and the predictions."""
    task, generator = task_of(adapter), Generator(base, adapter, precision)
    form = task.options()["form"]
    begun, busy = time.perf_counter(), time.process_time()
    log = work / f"{adapter.name}-{precision}.jsonl" if work else None
    with generation.progress(f"{form}, {precision}", len(records)) as on_progress:
        outputs = generate(
            *(base, None),
            batch_size=BATCH,
            loaded=generator,
            precision=precision,
            on_progress=on_progress,
            resume_log=log,
            **asked(task, records, base),
        )
    took, busy = time.perf_counter() - begun, time.process_time() - busy
    tokens = sum(one.tokens for one in outputs) / len(records)
    each = f"{took / len(records):.2f} s, {busy / len(records):.2f} s of processors"
    print(f"{form}, {precision}: {tokens:.0f} tokens a record; {each}", flush=True)
    some = sorted(records, key=lambda one: len(one["input"]))[(len(records) - SINGLE) // 2 :][:SINGLE]
    repeats = any(grammar and grammar.repeats for grammar in asked(task, some, base)["grammars"])
    ways = [generation._DRAFT, NO_DRAFT] if repeats else [NO_DRAFT]
    for draft in ways:
        name = ", with drafts" if draft else ""
        print(f"  one by one{name}: {one_by_one(generator, base, task, some, draft):.2f} s a record")
    unfinished = sum(not one.finished for one in outputs)
    print(f"  {unfinished} of {len(records)} outputs are not finished")
    return task, rows_of(records, [one.text for one in outputs])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("records", type=Path, help="a split of records")
    parser.add_argument("adapters", type=Path, nargs="+", help="folders of adapters; the first one is compared with")
    parser.add_argument("--precision", choices=["fp32", "bf16"], nargs="+", default=["fp32"])
    parser.add_argument("--count", type=int, default=160, help="records to draw")
    parser.add_argument("--base", default="data/06_models/smollm2-135m-instruct", help="folder of a base, or a Hub id")
    parser.add_argument("--work", type=Path, help="folder for outputs")
    options = parser.parse_args()
    base = resolve_base_model(options.base, root=ROOT)
    every: list[Record] = json.loads(options.records.read_text("utf-8"))
    records = random.Random(42).sample(every, min(options.count, len(every)))
    first: list[dict[str, Any]] | None = None
    for adapter, precision in itertools.product(options.adapters, options.precision):
        task, rows = read(base, adapter, precision, records, options.work)
        results = task.score(rows, None, None, experiment="forms")
        sources = sorted({row["source"] for row in rows})
        for metric in task.headline:
            low, high = results["intervals"][metric.name]
            line = f"  {metric.title} {metric.value(results):.3f} [{low:.3f}, {high:.3f}]"
            if first is not None:
                found = task.difference(rows, first)[metric.name]
                low, high = found["interval"]
                equal = sum(a["prediction"] == b["prediction"] for a, b in zip(rows, first, strict=True))
                line += f", {found['value']:+.3f} [{low:+.3f}, {high:+.3f}] against the first ({equal} equal outputs)"
            by_source = {name: [row for row in rows if row["source"] == name] for name in sources}
            values = {name: task.headline_values(some)[metric.name] for name, some in by_source.items()}
            print(f"{line}; " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        types = results["relation_metrics"]["by_type"].items()
        print(
            "  relations by type: "
            + ", ".join(f"{name} {found['f1']:.3f} of {found['support']}" for name, found in types)
        )
        first = first or rows


if __name__ == "__main__":
    main()
