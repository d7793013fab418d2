"""The data pipelines on many synthetic documents: documents per second, peak memory, and whether both grow linearly.

    .venv/bin/python benchmarks/data.py [DOCUMENTS] [--work DIR]

Runs the nodes from documents to records, splits, leakage proof, manifest, quality, statistics and figures under Kedro's
runner, with every dataset read and written as in ``kedro run``, on a tenth of the documents and then on all of them
(default 100,000), each in a process of its own. The ratio of the two rates is 1 where the work is linear. Writing the
documents by the generator, and importing the libraries, are not counted; a node's time is that of its datasets, too.
``processor_seconds`` are those of all cores; other work on the machine changes them less. ``peak_gb`` is the most that
the process and those that it starts held at once, asked for twice a second; a page that they share counts once.

Files lie in a temporary folder, or in DIR, which keeps the documents for another time; a million take 5 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from odin_slm import settings
from odin_slm.config.loader import ProjectConfigLoader
from odin_slm.config.parameters import CombinationParams, IngestionParams, TaskParams
from odin_slm.corpora.synthetic.generator import generate
from odin_slm.datasets.json_files import JSONLinesDataset
from odin_slm.models.base_model import resolve_base_model
from odin_slm.models.tokens import token_counter
from odin_slm.pipelines import combination, ingestion
from odin_slm.pipelines.ingestion.pipeline import sources

ROOT = Path(__file__).resolve().parents[1]
CORPUS = "bc5cdr"


class NodeTimes:
    """Seconds by node, from the first dataset that it loads to the last that it saves."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    @hook_impl
    def after_dataset_saved(self, node: Any) -> None:
        """Count the time since the dataset before."""
        now = time.perf_counter()
        self.seconds[node.name.rpartition(".")[2]] += now - self._last
        self._last = now


def catalog_of(documents: Path) -> DataCatalog:
    """Return the project's catalog, in the working folder, with one corpus that is not empty."""
    entries = ProjectConfigLoader(ROOT / "conf", **settings.CONFIG_LOADER_ARGS)["catalog"]
    entries[f"{CORPUS}_documents"] = {**entries["{corpus}_documents"], "filepath": str(documents)}
    catalog = DataCatalog.from_config(entries)
    for name in sources():
        catalog.save(f"{name}_parse_report", {"corpus": name})
        if name != CORPUS:
            catalog.save(f"{name}_documents", [])
            catalog.save(f"{name}_records", [])
    for name, params in (
        ("task", TaskParams()),
        ("ingestion", IngestionParams()),
        ("combination", CombinationParams()),
    ):
        catalog[f"params:{name}"] = params
    return catalog


def measure(documents: Path) -> dict[str, Any]:
    """Run every node once; seconds by node, documents per second."""
    catalog = catalog_of(documents)
    records = ingestion.create_pipeline().only_nodes(f"{CORPUS}.write_records")
    token_counter(resolve_base_model("data/06_models/odin-nano", root=ROOT))  # its library's import is not counted
    hooks, before = _create_hook_manager(), time.process_time()
    times = NodeTimes()
    hooks.register(times)
    SequentialRunner().run(Pipeline([records, combination.create_pipeline()]), catalog, hooks)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    total, count = sum(times.seconds.values()), len(catalog.load("documents"))
    return {
        "documents": count,
        "records": len(catalog.load("records")),
        "seconds": {name: round(value, 1) for name, value in times.seconds.items()},
        "total_seconds": round(total, 1),
        "processor_seconds": round(time.process_time() - before + workers.ru_utime + workers.ru_stime, 1),
        "documents_per_second": round(count / total),
    }


def peak_of(process: subprocess.Popen[str]) -> int:
    """Return the most bytes that a process and its children hold until it ends, with a shared page counted once."""
    most, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        held = 0
        with suppress(psutil.NoSuchProcess):
            for one in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess, FileNotFoundError):
                    held += one.memory_full_info().pss
        most = max(most, held)
        time.sleep(0.5)
    return most


def run(count: int, work: Path) -> dict[str, Any]:
    """Write the documents, unless they are there, and measure in another process."""
    documents = work / f"documents-{count}.jsonl"
    if not documents.is_file():
        JSONLinesDataset(filepath=str(documents)).save(d.to_dict() for d in generate(count, seed=1, corpus=CORPUS))
    command = [sys.executable, __file__, "--one", str(documents)]
    with tempfile.TemporaryDirectory(dir=work) as folder, open(f"{folder}/result", "w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, text=True, cwd=folder)
        peak = peak_of(process)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        said.seek(0)
        result: dict[str, Any] = json.loads(said.read().strip().splitlines()[-1])
    return {**result, "peak_gb": round(peak / 1024**3, 2)}


def main() -> None:
    """Measure a tenth and the whole, and print both with their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=int, nargs="?", default=100_000, metavar="DOCUMENTS")
    parser.add_argument("--work", type=Path, metavar="DIR")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one)))
        return
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (given.documents // 10, given.documents):
            result = run(count, given.work.absolute() if given.work else Path(folder))
            rates.append(result["documents_per_second"])
            print(json.dumps(result, indent=1), flush=True)
    print(f"rate of the whole / rate of a tenth  {rates[1] / rates[0]:.2f}")


if __name__ == "__main__":
    main()
