"""What the operating point is worth on validation records that it was not fitted on.

    .venv/bin/kedro run --env smollm2-135m --pipelines data,training --params corpora=DIR
    .venv/bin/python benchmarks/operating_point.py [--data data/05_model_input/smollm2-135m] [--sources bc5cdr biored]
        [--adapter data/06_models/smollm2-135m/adapter] [--base DIR] [--records 160] [--objective f1]
        [--precision fp32] [--work FOLDER]
    .venv/bin/python benchmarks/operating_point.py --predictions data/07_model_output/…/calibration_predictions.jsonl

Reads validation records as the evaluation pipeline does to fit an operating point, or takes what it has read; where
that was without an operating point, thresholds alone are fitted. The point is fitted on half of the documents and
judged on the other half, in turns, so that every record is judged by a point that has not seen it. What it lists is
taken from the same reading: a list under a higher bias is the beginning of one under a lower bias. Only the bias under
which relations are read comes from the entities of all records. The test split is never opened.

Prints the points, precision, recall and F1 without and at them with 95 % intervals over documents, and the paired
differences with theirs and their p-values; those of relations are given the entities under that bias. A run that was
stopped goes on in its ``--work`` folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as settings.py does: a worker that spins steals the other's core

from odin_slm.config.parameters import EvaluationParams, TaskParams
from odin_slm.inference.served_model import task_of
from odin_slm.models.base_model import resolve_base_model
from odin_slm.pipelines.evaluation.nodes import fit_calibration, generate_calibration_predictions
from odin_slm.tasks.extraction.calibration import confidence
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render
from odin_slm.tasks.extraction.metrics import KINDS, difference, micro
from odin_slm.tasks.extraction.operating_point import items_of
from odin_slm.tasks.operating_point import point_of

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]


def read(given: argparse.Namespace, params: EvaluationParams) -> list[Row]:
    """Return validation rows: stored ones, or those of a sample of the validation split."""
    if given.predictions:
        return [json.loads(line) for line in given.predictions.read_text(encoding="utf-8").splitlines()]
    records = json.loads((given.data / "val.json").read_text(encoding="utf-8"))
    chosen = [record for record in records if not given.sources or record["source"] in given.sources]
    base = resolve_base_model(given.base, root=ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        task = TaskParams(name="extraction", options={"form": task_of(given.adapter).options()["form"]})
        begin = time.monotonic()
        rows = generate_calibration_predictions(base, given.adapter, chosen, work, task, params)
    print(f"{len(rows)} records read in {time.monotonic() - begin:.0f} s", flush=True)
    return rows


def listed_at(row: Row, calibrator: Mapping[str, Any] | None) -> Row:
    """Return a row with what is listed at a calibrator's operating point, or with bias 0 and no threshold."""
    point, found = point_of(calibrator), {}
    for kind in KINDS:
        bias = (point.get("end_bias") or {}).get(kind, 0.0)
        least = point["threshold"][kind] if point else 0.0
        listed = [item for item in items_of(row, kind) if item.limit >= bias]
        found[kind] = [item.key for item in listed if not least or confidence(calibrator, kind, item.chance) >= least]
    names = {text for _, text in found["entity"]}
    relations = [key for key in found["relation"] if not point or {key[0], key[2]} <= names]
    kept = Extraction(tuple(Entity(*key) for key in found["entity"]), tuple(RelationTriple(*key) for key in relations))
    return {**row, "prediction": render(kept)}


def show(title: str, rows: list[Row]) -> None:
    """Print scores."""
    scores = micro(rows)
    for kind in KINDS:
        found, (low, high) = scores[f"{kind}_metrics"]["micro"], scores["intervals"][f"{kind}_f1_micro"]
        ratios = f"P {found['precision']:.3f}  R {found['recall']:.3f}  F1 {found['f1']:.3f} [{low:.3f}, {high:.3f}]"
        print(f"  {title:<9} {kind:<9} {ratios}")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data/05_model_input/smollm2-135m")
    parser.add_argument("--adapter", type=Path, default=ROOT / "data/06_models/smollm2-135m/adapter")
    parser.add_argument("--base", default="data/06_models/smollm2-135m-instruct")
    parser.add_argument("--sources", nargs="*", default=[])
    parser.add_argument("--records", type=int, default=160)
    parser.add_argument("--objective", default="f1")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    params = EvaluationParams(
        experiment="operating-point",
        decoding="constrained",
        calibration_samples=given.records,
        operating_point=given.objective,
        precision=given.precision,
    )
    rows = read(given, params)
    documents = sorted({row["document_id"] for row in rows})
    random.Random(42).shuffle(documents)
    first = set(documents[::2])
    halves = [[row for row in rows if (row["document_id"] in first) is inside] for inside in (True, False)]
    without, at_it = [], []
    for fitted, judged in (halves, halves[::-1]):
        calibrator = fit_calibration(fitted, TaskParams(), params)
        point = point_of(calibrator)
        print(f"fitted on {len(fitted)} records: bias {point['end_bias']}, threshold {point['threshold']}")
        without += [listed_at(row, None) for row in judged]
        at_it += [listed_at(row, calibrator) for row in judged]
    show("without", without)
    show("at it", at_it)
    for name, found in difference(at_it, without).items():
        low, high = found["interval"]
        print(f"  difference, {name}: {found['value']:+.3f} [{low:+.3f}, {high:+.3f}], p = {found['p_value']:.3f}")


if __name__ == "__main__":
    main()
