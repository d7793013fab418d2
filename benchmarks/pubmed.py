"""What it takes to read all of PubMed: some abstracts read and measured, and the arithmetic from there.

    .venv/bin/python benchmarks/pubmed.py [--model DIR] [--corpora DIR] [--documents 64] [--core-hour 0.0446]

Measured: the abstracts of BC5CDR, from its test set on, cut into shards, read and written as `kedro run --pipelines
extraction` does, in processor time, which other programs hardly change; where more documents are asked for than there
are, they come again under other ids. And what one process can hand out and write, on 10,000 documents. Loading the
model, and a first batch, are not counted. All else is arithmetic, for `--abstracts` (38,000,000) of the same length.
A GPU's rate is not ours: it follows from what NVIDIA published for TensorRT-LLM 1.0 and Llama 3.1 8B in FP8 on one H100
(docs/source/performance/perf-overview.md of NVIDIA/TensorRT-LLM), through the two points with outputs of 128 tokens.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

# as odin_slm.settings does; read when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from transformers import AutoTokenizer

from odin_slm.config.parameters import ExtractionParams
from odin_slm.core.document import GivenDocument
from odin_slm.core.record import render_prompt
from odin_slm.corpora import CORPORA
from odin_slm.datasets.documents import ExtractionShardsDataset
from odin_slm.inference.batch import Job
from odin_slm.inference.generation import progress
from odin_slm.inference.reading import instruction_of
from odin_slm.inference.served_model import resolve_model
from odin_slm.pipelines.extraction.nodes import Documents

ROOT = Path(__file__).resolve().parents[1]
HANDED_OUT = 10_000
H100 = {128: 28_312, 2048: 3_450}
"""Tokens of input -> tokens of output a second, published, with outputs of 128 tokens."""


def abstracts(corpora: Path) -> list[GivenDocument]:
    """Return the abstracts of BC5CDR, those of its test set first."""
    names = [f"CDR_{part}Set.PubTator.txt" for part in ("Training", "Development", "Test")]
    files = {name: (corpora / "bc5cdr" / name).read_text(encoding="utf-8") for name in names}
    parsed = sorted(CORPORA["bc5cdr"].parse(files).documents, key=lambda document: document.split != "test")
    return [GivenDocument(document.id, "bc5cdr", n, document.text) for n, document in enumerate(parsed, start=1)]


def reader(documents: list[GivenDocument], count: int) -> Documents:
    """Return what a job reads documents by: so many of these, over and over, each time under another id."""

    def read(text_field: str, id_field: str) -> Iterator[GivenDocument]:
        for number, one in enumerate(islice(cycle(documents), count)):
            yield replace(one, id=f"{one.id}-{number // len(documents)}", record=number + 1)

    return read


def windows_per_second(tokens_in: float, tokens_out: float) -> float:
    """Return what one H100 reads: a time per token of input and one per token of output, through the two points."""
    short, long = sorted(H100)
    per_input = (128 / H100[long] - 128 / H100[short]) / (long - short)
    per_output = (128 / H100[short] - short * per_input) / 128
    return 1 / (tokens_in * per_input + tokens_out * per_output)


def measure(given: argparse.Namespace) -> dict[str, float]:
    """Return what an abstract takes: seconds of processor time, windows, tokens and bytes; and what is handed out."""
    model, params = resolve_model(given.model, root=ROOT), ExtractionParams(keep_text=False)
    documents, job = abstracts(given.corpora), Job(model, params)
    read, texts = reader(documents, given.documents), {document.id: document.text for document in documents}
    engine, rows = job.reader(), list[dict[str, Any]]()
    engine.extract([document.text for document in documents[:2]])

    def ahead(done: int, ready: int) -> None:
        on_progress(done + ready, given.documents)

    def found(_: Collection[str]) -> Iterator[dict[str, Any]]:
        for shard in job.shards(read):
            result = job.extract(engine, shard.documents, partial(ahead, len(rows)))
            rows.extend(result["rows"])
            yield {"name": shard.name, **result}

    with tempfile.TemporaryDirectory() as folder, progress("Reading", given.documents) as on_progress:
        begin, clock = time.process_time(), time.monotonic()
        ExtractionShardsDataset(filepath=folder).save(found)
        seconds, clock = time.process_time() - begin, time.monotonic() - clock
    read_texts = [texts[row["id"].rpartition("-")[0]] for row in rows]
    windows = [
        (text[window["begin"] : window["end"]], window["output"])
        for row, text in zip(rows, read_texts, strict=True)
        for window in row["windows"]
    ]
    encode = AutoTokenizer.from_pretrained(model.base.path)
    asked = instruction_of(model.task, model.instructions, job.source)
    begin = time.process_time()
    names = [shard.name for shard in job.shards(reader(documents, HANDED_OUT))]
    parts = ({"name": name, "rows": list(islice(cycle(rows), params.shard_size)), "failed": []} for name in names)
    with tempfile.TemporaryDirectory() as folder:
        shards = ExtractionShardsDataset(filepath=folder)
        shards.save(lambda _: parts)
        handed = HANDED_OUT / (time.process_time() - begin)
        lists = {"whole": rows[: params.shard_size], "empty": []}
        shards.save(lambda _: ({"name": f"shard-{name}", "rows": rows, "failed": []} for name, rows in lists.items()))
        whole, empty = (Path(folder, f"shard-{name}.parquet").stat().st_size for name in lists)
    return {
        "documents": len(rows),
        "different": min(len(rows), len(documents)),
        "characters": sum(map(len, read_texts)) / len(rows),
        "clock": clock,
        "seconds": seconds / len(rows),
        "windows": len(windows) / len(rows),
        "input": sum(len(encode(render_prompt(asked, text)).input_ids) for text, _ in windows) / len(windows),
        "output": sum(len(encode(output).input_ids) + 1 for _, output in windows) / len(windows),
        "bytes": (whole - empty) / len(lists["whole"]) + empty / params.shard_size,
        "handed": handed,
        "shard": params.shard_size,
    }


def main() -> None:
    """Measure, and print the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="data/06_models/odin-nano")
    parser.add_argument("--corpora", type=Path, default=ROOT / "data/01_raw/sample")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--abstracts", type=int, default=38_000_000)
    parser.add_argument("--core-hour", type=float, default=0.0446, help="USD; AWS c7i.4xlarge / 16, us-east-1, 2025")
    parser.add_argument("--gpu-hour", type=float, default=6.88, help="USD; AWS p5.4xlarge, us-east-1, 2025")
    parser.add_argument("--gb-month", type=float, default=0.023, help="USD; S3 Standard, us-east-1, 2025")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows the progress
    one = measure(given)
    hours, shards = given.abstracts * one["seconds"] / 3600, given.abstracts / one["shard"]
    gpu = given.abstracts * one["windows"] / windows_per_second(one["input"], one["output"]) / 3600
    print(f"measured on {one['documents']:,} abstracts ({one['different']:,} different ones) of "
          f"{one['characters']:,.0f} characters, {one['clock']:.0f} s:")  # fmt: skip
    print(f"  {1 / one['seconds']:.2f} abstracts a second of a core, {one['windows']:.2f} windows each")
    print(f"  {one['input']:.0f} tokens in and {one['output']:.0f} out a window; {one['bytes']:,.0f} bytes a result")
    print(f"  one process cuts and writes {one['handed']:,.0f} documents a second: enough for "
          f"{one['handed'] * one['seconds']:,.0f} cores")  # fmt: skip
    print(f"extrapolated to {given.abstracts:,}:")
    print(f"  {hours:,.0f} core-hours, {hours / 168:,.0f} cores for a week, {hours * given.core_hour:,.0f} USD")
    print(f"  {shards:,.0f} shards of {one['shard']:.0f}, {one['shard'] * one['bytes'] / 1e6:.2f} MB each; a lost one "
          f"costs {one['shard'] * one['seconds'] / 60:.1f} core-minutes")  # fmt: skip
    size = one["bytes"] * given.abstracts / 1e9
    print(f"  {size:,.0f} GB of results without texts, {size * given.gb_month:,.2f} USD a month")
    print("from published rates, not measured: Llama 3.1 8B in FP8 on one H100")
    print(f"  {windows_per_second(one['input'], one['output']):.0f} windows a second; {gpu:,.0f} GPU-hours, "
          f"{gpu * given.gpu_hour:,.0f} USD")  # fmt: skip


if __name__ == "__main__":
    main()
