"""One training in several ways: an adapter or all weights, float32 or NF4, transformers or Unsloth; rates and ranks.

    .venv/bin/kedro run --env smollm2-135m-ade --pipelines data --params corpora=DIR
    .venv/bin/python benchmarks/methods.py --work FOLDER [--steps 150] [--unsloth .venv-unsloth/bin/python]
    .venv/bin/python benchmarks/methods.py --work FOLDER --ways lora lora:learning_rate=2e-3 lora:lora.r=8

A way is one of ``lora``, ``lora-nf4``, ``unsloth``, ``unsloth-nf4`` and ``full``, and may change any parameter of
training behind a colon. Each trains in a process of its own: the same records in the same order, for the same number of
optimizer steps. Each then extracts from the same validation records under the grammar, on the base as it is. The test
set is not read.

Prints for each way the minutes of training, the peak of its resident memory, micro F1 with 95 % intervals over
documents, and the paired difference from the first way. What FOLDER holds already is not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from odin_slm.config.parameters import EvaluationParams, TaskParams, TrainingParams
from odin_slm.models.base_model import BaseModel

ROOT = Path(__file__).resolve().parents[1]
WAYS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-nf4": {"load_in_4bit": True},
    "unsloth": {"backend": "unsloth"},
    "unsloth-nf4": {"backend": "unsloth", "load_in_4bit": True},
    "full": {"method": "full", "learning_rate": 1e-4},
}
COMMON = {"batch_size": 8, "learning_rate": 1e-3, "evaluations": 1, "validation_samples": 8, "generation_samples": 0}


def main() -> None:
    """Train in every way, extract, and print the table."""
    parser = argparse.ArgumentParser(description="One training in several ways.")
    parser.add_argument("--base", type=Path, default=ROOT / "data/06_models/smollm2-135m-instruct")
    parser.add_argument("--data", type=Path, default=ROOT / "data/05_model_input/smollm2-135m-ade")
    parser.add_argument("--work", type=Path, required=True, help="folder for adapters and outputs")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--records", type=int, default=300, help="validation records, at most")
    parser.add_argument("--unsloth", type=Path, default=ROOT / ".venv-unsloth/bin/python", help="make unsloth")
    parser.add_argument("--ways", nargs="+", default=["lora", "lora-nf4", "unsloth-nf4", "full"])
    parser.add_argument("--train", help=argparse.SUPPRESS)  # the process of one way
    options = parser.parse_args()
    if not (options.data / "val.json").is_file():
        raise SystemExit(f"There is no data in {options.data} yet; the head of this file says how to make it.")
    if options.train:
        train(options)
        return
    logging.disable(logging.WARNING)
    records = json.loads((options.data / "val.json").read_text(encoding="utf-8"))
    records = random.Random(0).sample(records, min(options.records, len(records)))
    print(f"{options.steps} steps of {COMMON['batch_size']}; {len(records)} validation records")
    print(f"{'way':34}{'minutes':>8}{'GB':>6}   {'entity F1':22}{'relation F1':22}minus the first way")
    first: list[dict[str, Any]] = []
    for way in options.ways:
        state = trained(way, options)
        rows = extracted(way, records, options)
        first = first or rows
        print(f"{way:34}{state['seconds'] / 60:8.1f}{state['peak'] / 2**30:6.1f}   {figures(rows, first)}", flush=True)


def trained(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one way in a process of its own, and return its seconds and the peak of its memory in bytes."""
    folder = options.work / way
    if not (folder / "state.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        python = options.unsloth if "unsloth" in way or "nf4" in way else sys.executable  # it has bitsandbytes
        command = [python, __file__, "--train", way, "--base", options.base, "--data", options.data]
        command += ["--work", options.work, "--steps", options.steps]
        with (folder / "train.log").open("w") as log:
            done = subprocess.run([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"The way {way} failed; see {folder / 'train.log'}.")
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


def train(options: argparse.Namespace) -> None:
    """Train one way in this process, and note its time and memory beside the adapter."""
    from odin_slm.training.lora import train_lora

    logging.basicConfig(level=logging.INFO)
    name, _, changes = options.train.partition(":")
    settings: dict[str, Any] = {**COMMON, "lora": {"r": 32, "alpha": 64}, "max_steps": options.steps, **WAYS[name]}
    for change in filter(None, changes.split(",")):
        key, value = change.split("=")
        target = settings["lora"] if key.startswith("lora.") else settings
        target[key.removeprefix("lora.")] = yaml.safe_load(value) if "e-" not in value else float(value)
    records, validation = (
        json.loads((options.data / f"{split}.json").read_text(encoding="utf-8")) for split in ("train", "val")
    )
    folder = options.work / options.train
    begin = time.perf_counter()
    train_lora(
        BaseModel(options.base.name, options.base),
        records,
        validation,
        folder / "work",
        TrainingParams.model_validate(settings),
        lambda *_: None,
    )
    seconds = time.perf_counter() - begin
    # a backend with a process of its own is measured there; Linux counts in KiB
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    (folder / "state.json").write_text(json.dumps({"seconds": seconds, "peak": peak}), encoding="utf-8")


def extracted(way: str, records: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of one way's outputs under the grammar."""
    from odin_slm.pipelines.evaluation.nodes import TunedAdapter, generate_predictions

    folder = options.work / way
    params = EvaluationParams(experiment="methods", decoding="constrained", max_new_tokens=256)
    base = BaseModel(options.base.name, options.base)
    return generate_predictions(base, TunedAdapter(folder / "work/adapter"), records, folder, TaskParams(), params)


def figures(rows: list[dict[str, Any]], first: list[dict[str, Any]]) -> str:
    """Return both F1 with their intervals, and the paired differences from the first way."""
    task = TaskParams().task()
    results = task.score(rows, first, None, experiment="methods")
    text = ""
    for metric in task.headline:
        low, high = results["intervals"][metric.name]
        text += f"{f'{metric.value(results):.3f} [{low:.3f}, {high:.3f}]':22}"
    if rows is first:
        return text
    gaps = (results["difference"][metric.name] for metric in task.headline)
    return text + "  ".join(f"{g['value']:+.3f} [{g['interval'][0]:+.3f}, {g['interval'][1]:+.3f}]" for g in gaps)


if __name__ == "__main__":
    main()
