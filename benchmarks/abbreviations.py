"""What it is worth to list both forms of abbreviated names, on stored predictions for validation records.

    .venv/bin/python benchmarks/abbreviations.py FILE…

A FILE holds rows as the evaluation pipeline writes them: ``calibration_predictions.jsonl`` of an experiment, or
``lists.json`` of ``benchmarks/pairs.py``. Records that several files hold count once. Outputs are completed as
``evaluation.abbreviations`` completes them, and nothing is generated.

Prints by corpus how many outputs change, micro F1 without and with it, and the paired difference with its 95 % interval
over documents and its p-value.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from odin_slm.tasks.extraction.abbreviations import KEY
from odin_slm.tasks.extraction.metrics import KINDS, difference, micro_f1
from odin_slm.tasks.extraction.task import ExtractionTask

Row = dict[str, Any]


def rows_of(file: Path) -> list[Row]:
    """Return the rows of a predictions file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    found: list[Row] = json.loads(text)["rows"]
    return found


def main() -> None:
    """Complete, score and print."""
    rows = list({row["id"]: row for name in sys.argv[1:] for row in rows_of(Path(name))}.values())
    if not rows:
        raise SystemExit("Name files of predictions; the head of this file says which.")
    task = ExtractionTask().with_calibrator({KEY: True})
    both = [{**row, "prediction": task.kept(row["input"], row["prediction"], (), {KEY: True})[0]} for row in rows]
    sources = sorted({row["source"] for row in rows})
    for title, chosen in (("all", sources), *((source, [source]) for source in sources)):
        pairs = [(one, other) for one, other in zip(rows, both, strict=True) if one["source"] in chosen]
        without, completed = [one for one, _ in pairs], [other for _, other in pairs]
        changed = sum(one["prediction"] != other["prediction"] for one, other in pairs)
        documents = len({row["document_id"] for row in without})
        print(f"{title}: {len(pairs)} records of {documents} documents, {changed} outputs change")
        before, after, gain = micro_f1(without), micro_f1(completed), difference(completed, without)
        for name in (f"{kind}_f1_micro" for kind in KINDS):
            (low, high), p = gain[name]["interval"], gain[name]["p_value"]
            gained = f"{gain[name]['value']:+.3f} [{low:+.3f}, {high:+.3f}], p = {p:.3f}"
            print(f"  {name:<18}{before[name]:.3f} -> {after[name]:.3f}, {gained}")


if __name__ == "__main__":
    main()
