"""What folds that leak are worth: a CRF on ADE over ten folds by abstract, and over ten folds by sentence as published.

    .venv/bin/kedro run --env smollm2-135m --pipelines data --params "corpora=DIR,ingestion.corpora=[ade]"
    .venv/bin/pip install -c requirements/constraints.txt -e ".[dev,benchmark]"
    .venv/bin/python benchmarks/folds.py [--data data/03_primary/smollm2-135m] [--folds 10]

ADE's literature reports means over ten folds of its sentences, which put sentences of one case report on both sides
(``combination.folds=10,combination.fold_by=document`` makes one of them). Here every sentence is tested once in each of
the two ways, by the dictionary and the CRF of ``baselines.py``, which train on the other nine folds and look at nothing
else. Prints how many sentences share their abstract with training, mean and standard deviation over the folds of micro
F1 under this project's rule and of macro F1 under the protocol of the literature (``ade_strict``), and what the leak
adds: the difference of all sentences' micro F1, paired by abstract.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baselines import systems_of
from rich.progress import track

from odin_slm.core.document import Document
from odin_slm.core.record import Record
from odin_slm.dataprep.splitting import Folds, assign_splits
from odin_slm.tasks.extraction.metrics import KINDS, difference, score
from odin_slm.tasks.extraction.task import ExtractionTask

ROOT = Path(__file__).resolve().parents[1]
WAYS = {"by abstract": False, "by sentence": True}
Rows = list[dict[str, Any]]


def folds_of(documents: Sequence[Document], count: int, *, by_document: bool) -> dict[str, int]:
    """Return the fold that tests each document."""
    found: dict[str, int] = {}
    for test in range(count):
        folds = Folds(count, test, by_document)
        placed = assign_splits(
            documents, seed=42, validation_ratio=0.0, test_ratio=0.0, near_duplicate=0.7, folds=folds
        )
        found |= {name: test for name, placement in placed.items() if placement.split == "test"}
    return found


def strict(rows: Rows, documents: Sequence[Document]) -> dict[str, float]:
    """Return macro F1 of entities and relations under the literature's protocol."""
    read = [
        {
            "id": row["document_id"],
            "text": row["input"],
            "windows": [{"begin": 0, "end": len(row["input"]), "output": row["prediction"]}],
        }
        for row in rows
    ]
    scores = ExtractionTask().score_protocols(read, [d.to_dict() for d in documents], resamples=2)
    found = scores["ade_strict"]["scores"]
    return {"entity": found["entities, macro"]["f1"], "relation": found["relations, macro"]["f1"]}


def main() -> None:
    """Fit on every fold, predict, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/03_primary/smollm2-135m")
    parser.add_argument("--folds", type=int, default=10)
    given = parser.parse_args()
    if not (given.data / "ade_records.json").is_file():
        raise SystemExit(f"There is no data in {given.data} yet; the head of this file says how to make it.")
    records: list[Record] = json.loads((given.data / "ade_records.json").read_text(encoding="utf-8"))
    lines = (given.data / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [d for d in map(Document.from_dict, map(json.loads, lines)) if d.source == "ade"]
    pmids = {document.id: document.pmid for document in documents}
    print(f"{len(records)} records of {len(documents)} sentences, {len(set(pmids.values()))} abstracts")

    pooled: dict[tuple[str, str], Rows] = defaultdict(list)
    figures: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for way, by_document in WAYS.items():
        fold = folds_of(documents, given.folds, by_document=by_document)
        shared = 0
        for test in track(range(given.folds), description=f"folds {way}"):
            train = [record for record in records if fold[record["document_id"]] != test]
            held = [record for record in records if fold[record["document_id"]] == test]
            known = {pmids[record["document_id"]] for record in train}
            shared += sum(pmids[record["document_id"]] in known for record in held)
            with contextlib.redirect_stdout(io.StringIO()):  # the rules of every fold
                systems = systems_of(train, held)
            for title, rows in systems.items():
                system = title.partition(" ")[0]
                named = [{**row, "group": pmids[row["document_id"]]} for row in rows]
                pooled[way, system] += named
                scores, published = score(named, resamples=2), strict(named, documents)
                for kind in KINDS:
                    figures[way, system, f"{kind}, micro"].append(scores[f"{kind}_metrics"]["micro"]["f1"])
                    figures[way, system, f"{kind}, ade_strict macro"].append(published[kind])
        print(f"{way}: {shared} of {len(records)} records share their abstract with training")
    for (way, system, name), values in figures.items():
        mean, spread = statistics.mean(values), statistics.stdev(values)
        print(f"{way:12} {system:10} {name:28} {mean:.3f}, standard deviation {spread:.3f} over {len(values)} folds")
    for system in sorted({system for _, system in pooled}):
        leaking, honest = (sorted(pooled[way, system], key=lambda r: r["id"]) for way in reversed(WAYS))
        for name, found in difference(leaking, honest).items():
            if name.endswith("f1_micro"):
                low, high = found["interval"]
                print(
                    f"{system}: by sentence minus by abstract, {name} {found['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
                )


if __name__ == "__main__":
    main()
