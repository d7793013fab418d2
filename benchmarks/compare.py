"""Stored predictions, source by source and type by type, and their differences paired by abstract.

    .venv/bin/python benchmarks/compare.py PREDICTIONS.jsonl [OTHER.jsonl …] [--context test_context.json]

Each file is a ``predictions.jsonl`` of the evaluation pipeline; no model is loaded, and nothing is generated. Prints
precision, recall and F1 of entities and relations with 95 % bootstrap intervals over abstracts, for all records, each
type and each source; then, for every further file, its F1 minus that of the first one with the interval of the paired
difference. Files of other records are refused; the same records may be part of data with other training documents.
Files from before rows named their abstract (``group``) need ``--context``, or sentences of ADE are drawn one by one.

The results of a run (``evaluation_results.json``) hold the scores of one model; this is what sets two beside each other
where only their predictions are left.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from odin_slm.tasks.extraction.metrics import KINDS
from odin_slm.tasks.extraction.task import ExtractionTask
from odin_slm.tasks.rows import not_comparable

Row = dict[str, Any]


def read(file: Path, groups: dict[str, str]) -> list[Row]:
    """Return the rows of a file with their abstracts, without the data that their records were part of."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row.pop("manifest_sha256", None)
        row.setdefault("group", groups.get(row["document_id"], row["document_id"]))
    return rows


def parts(rows: list[Row]) -> dict[str, list[Row]]:
    """Return all rows, and those of each source where there are several."""
    sources = sorted({row["source"] for row in rows})
    found = {source: [row for row in rows if row["source"] == source] for source in sources}
    return {"all": rows, **(found if len(found) > 1 else {})}


def ratios(found: dict[str, Any], interval: tuple[float, float]) -> str:
    """Return scores in a line."""
    figures = f"P {found['precision']:.3f}  R {found['recall']:.3f}  F1 {found['f1']:.3f}"
    return f"{figures} [{interval[0]:.3f}, {interval[1]:.3f}]"


def show(task: ExtractionTask, rows: list[Row], resamples: int) -> None:
    """Print the scores of one file."""
    for name, some in parts(rows).items():
        scores = task.score(some, None, None, experiment="compare", resamples=resamples)
        for kind in KINDS:
            found = scores[f"{kind}_metrics"]
            gold = sum(by["support"] for by in found["by_type"].values())
            line = ratios(found["micro"], scores["intervals"][f"{kind}_f1_micro"])
            print(f"  {name:<10} {kind:<9} {line}  ({gold} gold)")
            if name == "all":
                for label, by in found["by_type"].items():
                    print(f"    {label:<17} {ratios(by, by['f1_interval'])}  ({by['support']} gold)")


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, nargs="+")
    parser.add_argument("--context", type=Path, help="names the abstract of every test document")
    parser.add_argument("--resamples", type=int, default=1000)
    given = parser.parse_args()
    task = ExtractionTask()
    groups = json.loads(given.context.read_text(encoding="utf-8"))["groups"] if given.context else {}
    files = [read(file, groups) for file in given.predictions]
    for file, rows in zip(given.predictions, files, strict=True):
        if why := not_comparable(rows, files[0], str(given.predictions[0])):
            raise SystemExit(f"{file}: {why}.")
        documents, abstracts = (len({row[name] for row in rows}) for name in ("document_id", "group"))
        print(f"{file}: {len(rows)} records of {documents} documents, {abstracts} abstracts")
        show(task, rows, given.resamples)
    for file, rows in zip(given.predictions[1:], files[1:], strict=True):
        print(f"{file} minus {given.predictions[0]}, paired by abstract")
        for name, some in parts(rows).items():
            before = parts(files[0])[name]
            differences = task.difference(some, before, resamples=given.resamples)
            for kind in KINDS:
                found = differences[f"{kind}_f1_micro"]
                low, high = found["interval"]
                print(f"  {name:<10} {kind:<9} {found['value']:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
