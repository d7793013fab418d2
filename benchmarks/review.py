"""Does a review pay? Documents are added to training by chance, by uncertainty, or by the mix of the review pipeline.

    .venv/bin/kedro run --env smollm2-135m-ade --pipelines data --params corpora=DIR
    .venv/bin/python benchmarks/review.py --work FOLDER [--seeds 3] [--rounds 3] [--steps 150]

A simulation: the annotations that the training documents have stand in for a person's corrections. It begins with a
share of the documents. In every round the model of the round before reads candidates among the others; each way
chooses as many of them again as there were at the beginning, and trains anew on all that it has then. Every training
has the same number of steps. No calibrator is fitted: confidences are the probabilities of the lines. F1 is that of
constrained decoding on validation records; the test set is not read.

Prints for every way and number of documents micro F1 as the mean over the seeds, with the 95 % interval of Student's t
where there are several, and what the chosen documents hold: somebody has to read and correct it. What FOLDER holds
already is not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import EvaluationParams, ExtractionParams, MixParams, TaskParams, TrainingParams
from odin_slm.inference.served_model import resolve_model
from odin_slm.models.base_model import BaseModel
from odin_slm.pipelines.evaluation.nodes import TunedAdapter, generate_predictions
from odin_slm.pipelines.review.nodes import predict_candidates
from odin_slm.review.selection import choose, uncertainty
from odin_slm.training.lora import train_lora

ROOT = Path(__file__).resolve().parents[1]
WAYS: Mapping[str, Mapping[str, float]] = {
    "random": {"uncertain": 0.0, "diverse": 0.0, "random": 1.0},
    "uncertain": {"uncertain": 1.0, "diverse": 0.0, "random": 0.0},
    "mix": MixParams().model_dump(),
}
SETTINGS = {"batch_size": 8, "learning_rate": 1e-3, "lora": {"r": 32, "alpha": 64}, "evaluations": 1}
SETTINGS |= {"validation_samples": 8, "generation_samples": 0}
Documents = Mapping[str, Sequence[dict[str, Any]]]  # id -> its records


def main() -> None:
    """Simulate all ways and seeds, and print the curve."""
    parser = argparse.ArgumentParser(description="Does a review pay?")
    parser.add_argument("--base", type=Path, default=ROOT / "data/06_models/smollm2-135m-instruct")
    parser.add_argument("--data", type=Path, default=ROOT / "data/05_model_input/smollm2-135m-ade")
    parser.add_argument("--work", type=Path, required=True, help="folder for adapters and outputs")
    parser.add_argument("--share", type=float, default=0.1, help="of the documents that it begins with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--candidates", type=int, default=500, help="documents that the model reads in a round")
    parser.add_argument("--records", type=int, default=300, help="validation records, at most")
    parser.add_argument("--source", default="ade", help="corpus whose documents are simulated with")
    options = parser.parse_args()
    if not (options.data / "val.json").is_file():
        raise SystemExit(f"There is no data in {options.data} yet; the head of this file says how to make it.")
    logging.disable(logging.WARNING)
    train, validation = (
        [one for one in json.loads((options.data / f"{split}.json").read_text()) if one["source"] == options.source]
        for split in ("train", "val")
    )
    validation = random.Random(0).sample(validation, min(options.records, len(validation)))
    documents: dict[str, list[dict[str, Any]]] = {}
    for record in train:
        documents.setdefault(record["document_id"], []).append(record)
    count = max(1, round(options.share * len(documents)))
    print(f"{len(documents)} documents, {count} at first; {options.steps} steps; {len(validation)} validation records")
    print(f"{'way':12}{'documents':>10}{'items':>8}   {'entity F1':24}relation F1")
    curves = {
        way: [curve(way, seed, count, documents, validation, options) for seed in range(options.seeds)] for way in WAYS
    }
    for way, seeds in curves.items():
        for points in zip(*seeds, strict=True):
            items = statistics.mean(point["items"] for point in points)
            figures = [interval([point[name] for point in points]) for name in ("entity_f1_micro", "relation_f1_micro")]
            print(f"{way:12}{points[0]['documents']:10}{items:8.0f}   {figures[0]:24}{figures[1]}")


def curve(
    way: str, seed: int, count: int, documents: Documents, validation: list[dict[str, Any]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a way's points with one seed: documents, items in them, F1."""
    had = random.Random(seed).sample(sorted(documents), count)
    points = []
    for number in range(options.rounds + 1):
        # The first training is the same for all ways.
        folder = options.work / (f"{seed}-{way}-{number}" if number else f"{seed}-begin")
        points.append(point(had, folder, documents, validation, options))
        if number < options.rounds:
            had = had + chosen(had, way, seed, count, folder, documents, options)
    return points


def point(
    had: Sequence[str],
    folder: Path,
    documents: Documents,
    validation: list[dict[str, Any]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train on documents, and return what that is worth."""
    file = folder / "point.json"
    if not file.is_file():
        records: Any = [record for name in had for record in documents[name]]
        params = TrainingParams.model_validate({**SETTINGS, "max_steps": options.steps})
        base = BaseModel(options.base.name, options.base)
        given: Any = validation
        train_lora(base, records, given, folder / "work", params, lambda *_: None)
        reading = EvaluationParams(experiment="review", decoding="constrained", max_new_tokens=256)
        rows = generate_predictions(
            base, TunedAdapter(folder / "work/adapter"), validation, folder, TaskParams(), reading
        )
        task = TaskParams().task()
        items = sum(len(found) for record in records for found in task.items(record["output"]).values())
        file.write_text(json.dumps({"documents": len(had), "items": items, **task.headline_values(rows)}))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def chosen(
    had: Sequence[str], way: str, seed: int, count: int, folder: Path, documents: Documents, options: argparse.Namespace
) -> list[str]:
    """Return the documents that a way adds, after the model of a folder has read some."""
    left = sorted(set(documents) - set(had))
    drawn = random.Random(f"{seed}-{len(had)}").sample(left, min(max(options.candidates, count), len(left)))
    texts = [" ".join(record["input"] for record in documents[name]) for name in drawn]
    weights = WAYS[way]
    doubts = [0.0] * len(drawn)
    if weights["uncertain"]:
        known = _doubts(drawn, texts, folder, options)
        doubts = [known.get(name, 0.0) for name in drawn]
    return [drawn[index] for index, _ in choose(texts, doubts, count=count, weights=weights, seed=seed)]


def _doubts(drawn: Sequence[str], texts: Sequence[str], folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the uncertainty of the model in a folder about each document; the ways share the first model's."""
    file = folder / "uncertainty.json"
    if not file.is_file():
        model = resolve_model(str(folder / "work/adapter"), root=ROOT, base_model=str(options.base))
        given = [{"id": name, "source": "", "text": text} for name, text in zip(drawn, texts, strict=True)]
        rows = predict_candidates({"documents": given}, model, ExtractionParams(schema=options.source))
        file.write_text(json.dumps({row["id"]: uncertainty(row) for row in rows}))
    known: dict[str, float] = json.loads(file.read_text())
    return known


def interval(values: Sequence[float]) -> str:
    """Return the mean of some seeds, with its interval."""
    from scipy.stats import t

    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


if __name__ == "__main__":
    main()
