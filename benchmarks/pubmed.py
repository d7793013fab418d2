"""What it takes to read all of PubMed: some abstracts read and measured, and the arithmetic from there.

    .venv/bin/python benchmarks/pubmed.py [--model DIR] [--corpora DIR] [--documents 64] [--core-hour 0.0446]

Measured: the first abstracts of BC5CDR's test set, read as `kedro run --pipelines extraction` reads them, in processor
time, which other programs do not change; and what one process can hand out and write, on 10,000 documents. Loading the
model, and a first batch, are not counted. All else is arithmetic, for `--abstracts` (38,000,000) of the same length.
A GPU's rate is not ours: it follows from what NVIDIA published for TensorRT-LLM 1.0 and Llama 3.1 8B in FP8 on one H100
(docs/source/performance/perf-overview.md of NVIDIA/TensorRT-LLM), through the two points with outputs of 128 tokens.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

# as odin_slm.settings does; read when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from transformers import AutoTokenizer

from odin_slm.config.parameters import ExtractionParams
from odin_slm.core.document import GivenDocument
from odin_slm.core.record import render_prompt
from odin_slm.corpora import CORPORA
from odin_slm.datasets.documents import ExtractionShardsDataset
from odin_slm.inference.batch import Job
from odin_slm.inference.reading import instruction_of
from odin_slm.inference.served_model import resolve_model
from odin_slm.pipelines.extraction.nodes import Documents

ROOT = Path(__file__).resolve().parents[1]
HANDED_OUT = 10_000
H100 = {128: 28_312, 2048: 3_450}
"""Tokens of input -> tokens of output a second, published, with outputs of 128 tokens."""


def abstracts(corpora: Path, count: int) -> list[GivenDocument]:
    """Return the first test abstracts of BC5CDR."""
    names = [f"CDR_{part}Set.PubTator.txt" for part in ("Training", "Development", "Test")]
    files = {name: (corpora / "bc5cdr" / name).read_text(encoding="utf-8") for name in names}
    documents = (d for d in CORPORA["bc5cdr"].parse(files).documents if d.split == "test")
    return [GivenDocument(d.id, "test", n, d.text) for n, d in enumerate(islice(documents, count), start=1)]


def reader(documents: list[GivenDocument], count: int) -> Documents:
    """Return what a job reads documents by: these, over and over."""

    def read(text_field: str, id_field: str) -> Iterator[GivenDocument]:
        return islice(cycle(documents), count)

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
    documents, job = abstracts(given.corpora, given.documents), Job(model, params)
    engine = job.reader()
    engine.extract([document.text for document in documents[:2]])
    begin, clock = time.process_time(), time.monotonic()
    found = job.extract(engine, documents)
    seconds, clock = time.process_time() - begin, time.monotonic() - clock
    texts = {document.id: document.text for document in documents}
    windows = [(texts[row["id"]][w["begin"] : w["end"]], w["output"]) for row in found["rows"] for w in row["windows"]]
    encode = AutoTokenizer.from_pretrained(model.base.path)
    asked = instruction_of(model.task, model.instructions, job.source)
    begin = time.process_time()
    names = [shard.name for shard in job.shards(reader(documents, HANDED_OUT))]
    parts = (
        {"name": name, "rows": list(islice(cycle(found["rows"]), params.shard_size)), "failed": []} for name in names
    )
    with tempfile.TemporaryDirectory() as folder:
        shards = ExtractionShardsDataset(filepath=folder)
        shards.save(lambda _: parts)
        handed = HANDED_OUT / (time.process_time() - begin)
        lists = {"whole": found["rows"], "empty": []}
        shards.save(lambda _: ({"name": f"shard-{name}", "rows": rows, "failed": []} for name, rows in lists.items()))
        whole, empty = (Path(folder, f"shard-{name}.parquet").stat().st_size for name in lists)
    return {
        "documents": len(documents),
        "characters": sum(map(len, texts.values())) / len(documents),
        "clock": clock,
        "seconds": seconds / len(documents),
        "windows": len(windows) / len(documents),
        "input": sum(len(encode(render_prompt(asked, text)).input_ids) for text, _ in windows) / len(windows),
        "output": sum(len(encode(output).input_ids) + 1 for _, output in windows) / len(windows),
        "bytes": (whole - empty) / len(documents) + empty / params.shard_size,
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
    one = measure(given)
    hours, shards = given.abstracts * one["seconds"] / 3600, given.abstracts / one["shard"]
    gpu = given.abstracts * one["windows"] / windows_per_second(one["input"], one["output"]) / 3600
    print(f"measured on {one['documents']} abstracts of {one['characters']:,.0f} characters, {one['clock']:.0f} s:")
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
