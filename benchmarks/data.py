"""The data pipelines on many synthetic documents: documents per second, peak memory, and whether both grow linearly.

    .venv/bin/python benchmarks/data.py [DOCUMENTS]

Runs the nodes from documents to records, splits, leakage proof, manifest, quality and statistics on a tenth of the
documents and then on all of them (default 100,000), each in a process of its own. The ratio of the two rates is 1 where
the work is linear. Writing the documents by the generator, and loading the tokenizer, are not counted.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from odin_slm.config.parameters import CombinationParams, IngestionParams, TaskParams
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.models.base_model import resolve_base_model
from odin_slm.models.tokens import token_counter
from odin_slm.pipelines.combination import nodes
from odin_slm.pipelines.ingestion.nodes import write_records

ROOT = Path(__file__).resolve().parents[1]
Result = TypeVar("Result")


def measure(count: int) -> dict[str, Any]:
    """Run every node once on ``count`` documents; seconds by node, documents per second, peak memory in GB."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Result]) -> Result:
        begin = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - begin
        return result

    documents = [document.to_dict() for document in generate(count, seed=1, corpus="bc5cdr")]
    base = resolve_base_model("data/06_models/odin-nano", root=ROOT)
    token_counter(base)  # loading the tokenizer's library takes the same seconds however many documents there are
    task, ingestion, combination = TaskParams(), IngestionParams(), CombinationParams()
    records, _ = timed("write_records", lambda: write_records(documents, base, task, ingestion))
    splits = timed("place_documents", lambda: nodes.place_documents(documents, combination))
    combined = timed("combine_records", lambda: nodes.combine_records(records, splits, combination))
    cleaned, _ = timed("clean_records", lambda: nodes.clean_records(combined, task, combination))
    train, val, test, leakage = timed("check_leakage", lambda: nodes.check_leakage(cleaned, splits, task, combination))
    sources = nodes.gather_sources(ingestion)
    timed("write_manifest", lambda: nodes.write_manifest(train, val, test, splits, sources, combination))
    timed("assess_quality", lambda: nodes.assess_quality(train, val, test, leakage, task, combination))
    timed("count_data", lambda: nodes.count_data(train, val, test, base, task))
    total = sum(seconds.values())
    return {
        "documents": count,
        "records": len(records),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total_seconds": round(total, 1),
        "documents_per_second": round(count / total),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
    }


def main() -> None:
    """Measure a tenth and the whole, and print both with their ratio."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        return
    whole = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rates = []
    for count in (whole // 10, whole):
        command = [sys.executable, __file__, "--one", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout.strip().splitlines()[-1])
        rates.append(result["documents_per_second"])
        print(json.dumps(result, indent=1), flush=True)
    print(f"rate of the whole / rate of a tenth  {rates[1] / rates[0]:.2f}")


if __name__ == "__main__":
    main()
