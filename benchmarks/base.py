"""What the embedded base is worth on real ADE, beside two baselines that anybody has in seconds.

    .venv/bin/kedro run --env nano --pipelines data --params corpora=DIR
    .venv/bin/pip install -c requirements/constraints.txt -e ".[dev,benchmark]"
    .venv/bin/python benchmarks/base.py [--data data/05_model_input/nano] [--epochs 1] [--work FOLDER]

Trains on the ADE records of the training split and scores on those of the test split (documents are disjoint):

- the dictionary and the CRF of ``baselines.py``, which relate every drug to every symptom here;
- the base alone, and the base with a LoRA adapter; both decodings.

Prints micro F1 with 95 % intervals over documents on all test records, and on those that have entities, the share of
entities that are not in the text, of faulty outputs, the paired difference of adapter and dictionary, and how many of
1,000 spans marked in test texts the base copies exactly, where the marks stand apart and where they touch the span, so
that its first word has other tokens than in the output. A run that was stopped goes on in its ``--work`` folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from baselines import show, systems_of

from odin_slm.config.parameters import EvaluationParams, LoraParams, TaskParams, TrainingParams
from odin_slm.models.base_model import resolve_base_model
from odin_slm.pipelines.evaluation.nodes import TunedAdapter, generate_base_predictions, generate_predictions
from odin_slm.pretraining.curriculum import Sources
from odin_slm.pretraining.probes import probe_base
from odin_slm.tasks.extraction.metrics import difference
from odin_slm.training.lora import train_lora

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Train, predict, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=ROOT / "data/05_model_input/nano")
    parser.add_argument("--base", default="data/06_models/odin-nano")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--spans", type=int, default=1000, help="marked spans to copy")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--work", type=Path, help="keep adapter and outputs there")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def ade(split: str) -> list[Any]:
        records = json.loads((given.data / f"{split}.json").read_text(encoding="utf-8"))
        return [record for record in records if record["source"] == "ade"]

    train, validation, test = ade("train"), ade("val"), ade("test")
    systems = systems_of(train, test)
    base = resolve_base_model(given.base, root=ROOT)
    options = EvaluationParams(experiment="ade")
    params = TrainingParams(
        max_seq_length=512,
        learning_rate=given.learning_rate,
        epochs=given.epochs,
        validation_samples=200,
        seed=given.seed,
        lora=LoraParams(r=given.rank, alpha=given.rank),
        resume=given.work is not None,
    )
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        # training logs its own progress
        adapter, state = train_lora(base, train, validation, work / "training", params, lambda *_: None)
        tuned = generate_predictions(base, TunedAdapter(adapter), test, work, TaskParams(), options)
        alone = generate_base_predictions(base, test, work, TaskParams(), options)
        copied = probe_base(
            base,
            Sources([], [], [record["input"] for record in test]),
            kinds=dict.fromkeys(("copy_one", "copy_glued"), given.spans),
            seed=given.seed,
        )
    for title, rows in (("base", alone), (f"base + LoRA ({state['seconds']:.0f} s)", tuned)):
        systems[f"{title}, free"] = [{**row, **row["free"]} for row in rows]
        systems[f"{title}, constrained"] = rows

    print(
        f"\n{len(train)} training, {len(validation)} validation, {len(test)} test records of ADE; {given.epochs} epochs"
    )
    show(systems)
    report(difference(tuned, next(iter(systems.values()))), copied)


def report(found: dict[str, dict[str, Any]], copied: dict[str, dict[str, Any]]) -> None:
    """Print the differences of adapter and dictionary, and what the base copies."""
    for name, gap in found.items():
        value, low, high = (100 * figure for figure in (gap["value"], *gap["interval"]))
        print(f"adapter, constrained, minus dictionary: {name} {value:+.1f} [{low:+.1f}, {high:+.1f}]")
    for where, figures in zip(("apart from", "touching"), copied.values(), strict=True):
        print(
            f"base alone, free: {figures['identical_outputs']:.1%} of {figures['examples']} spans of 1-5 words, marks "
            f"{where} them, copied exactly; {figures['not_in_text']:.1%} of the names not in the text"
        )


if __name__ == "__main__":
    main()
