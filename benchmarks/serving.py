"""The service under load, from a process of its own: throughput, overload, fuzzing, offsets, a killed batch job.

    .venv/bin/python benchmarks/serving.py throughput      32 concurrent clients against one at a time, equal outputs,
                                                           and what one waits at half of that load
    .venv/bin/python benchmarks/serving.py start           seconds from the command to the first /ready
    .venv/bin/python benchmarks/serving.py overload        60 s of more requests than there is room for
    .venv/bin/python benchmarks/serving.py fuzz [N]        N (5,000) requests made up from the OpenAPI document
    .venv/bin/python benchmarks/serving.py offsets         every offset of 200 documents cuts out its mention
    .venv/bin/python benchmarks/serving.py batch           jobs with and without Ray, killed, against an unbroken one

``--model DIR`` takes another model than the embedded base. Texts come from the project's generator.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from odin_slm.corpora.synthetic.generator import generate

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def service(model: str, **options: Any) -> Iterator[tuple[str, psutil.Process]]:
    """Start the service in a process of its own; yield its address and the process."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "odin_slm.serving", "--model", model, "--port", "0", *words]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log, text=True, cwd=ROOT)
        try:
            while True:
                time.sleep(0.2)
                log.seek(0)
                lines = [json.loads(line) for line in log.read().splitlines() if line.startswith("{")]
                address = next((line["address"] for line in lines if "address" in line), None)
                if address:
                    break
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(log.read())
            url = f"http://{address}"
            while httpx.get(f"{url}/ready", timeout=60).status_code != 200:
                time.sleep(0.5)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(90)


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a service and the processes that decode for it."""
    return [process, *process.children(recursive=True)]


def memory_of(process: psutil.Process) -> int:
    """Return the bytes that a service holds, with its processes; what they share counts once."""
    return sum(one.memory_full_info().pss for one in family(process))


def texts(count: int, seed: int = 3) -> list[str]:
    """Return sentences of the generator, none twice."""
    return list(dict.fromkeys(document.text for document in generate(2 * count, seed=seed, corpus="ade")))[:count]


def ask_all(url: str, asked: list[str], clients: int) -> tuple[float, list[Any], list[float]]:
    """Let so many clients ask, each for its next text when it has its answer; seconds, answers, latencies.

    A client is a thread with a connection of the standard library: a request then costs a tenth of what it does with
    httpx, on cores that the service needs.
    """
    answers: list[Any] = [None] * len(asked)
    latencies: list[float] = []
    left = iter(enumerate(asked))
    lock = threading.Lock()

    def one_client(_: int) -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=300)
        while True:
            with lock:
                number, text = next(left, (-1, ""))
            if number < 0:
                connection.close()
                return
            begin = time.perf_counter()
            connection.request("POST", "/predict", json.dumps({"text": text}), {"content-type": "application/json"})
            response = connection.getresponse()
            body = response.read()
            latencies.append(time.perf_counter() - begin)
            assert response.status == 200, body
            answers[number] = json.loads(body)["results"][0]

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one_client, range(clients)))
    return time.perf_counter() - begin, answers, latencies


def at_rate(url: str, asked: list[str], rate: float) -> list[float]:
    """Ask at random times, so many texts a second on average, whoever still waits; return the latencies."""
    draw, latencies = random.Random(7), []
    with ThreadPoolExecutor(len(asked)) as pool:
        asking = []
        for text in asked:
            time.sleep(draw.expovariate(rate))
            asking.append(pool.submit(ask_all, url, [text], 1))
        for one in asking:
            latencies += one.result()[2]
    return latencies


def start(model: str, turns: int = 3) -> None:
    """Measure how long the service takes until it is ready."""
    times = []
    for turn in range(turns + 1):  # the first one fills the caches
        begin = time.perf_counter()
        with service(model) as (_, process):
            wall = time.perf_counter() - begin
            busy = sum(one.user + one.system for one in (each.cpu_times() for each in family(process)))
        print(f"turn {turn}: ready after {wall:.1f} s, {busy:.1f} s of processor time, load {os.getloadavg()[0]:.1f}")
        times += [wall] if turn else []
    print(f"median of {turns}  {statistics.median(times):.1f} s")


def same(one: Any, other: Any, apart: float = 2e-4) -> bool:
    """Whether two answers are equal, confidences up to so much: sums of other batches end in other digits."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < apart
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name], apart) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(*both, apart) for both in zip(one, other, strict=True))
    return bool(one == other)


def throughput(model: str, number: int = 192, turns: int = 3, precision: str = "fp32") -> None:
    """Compare 32 clients at once with one after the other, in turns, on the same texts; in bf16 answers may differ."""
    asked = texts(number)
    single = asked[: number // 4]

    def cpu() -> float:
        times = [one.cpu_times() for one in family(process)]
        return float(sum(one.user + one.system for one in times))

    with service(model, queue_size=64, precision=precision) as (url, process):
        ask_all(url, asked[:32], 8)  # warm
        ratios = []
        for turn in range(turns):
            begin = cpu()
            alone, few, waits = ask_all(url, single, 1)
            middle = cpu()
            together, all_of_them, waits_of_many = ask_all(url, asked, 32)
            costs = (middle - begin) / len(single) * 1000, (cpu() - middle) / len(asked) * 1000
            rates = len(single) / alone, len(asked) / together
            ratios.append(rates[1] / rates[0])
            apart = 2e-4 if precision == "fp32" else 0.05  # 16 bits hold two to three digits
            equal = sum(same(*both, apart) for both in zip(all_of_them, few, strict=False))
            print(
                f"turn {turn}: 1 client {rates[0]:.2f}/s (median {statistics.median(waits) * 1000:.0f} ms), "
                f"32 clients {rates[1]:.2f}/s (median {statistics.median(waits_of_many) * 1000:.0f} ms), "
                f"ratio {ratios[-1]:.2f}, {equal} of {len(few)} answers equal, "
                f"CPU time an output {costs[0]:.0f} ms and {costs[1]:.0f} ms, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            assert equal == len(few) or precision != "fp32"
        print(f"ratio, median of {turns}  {statistics.median(ratios):.2f}")
        waits = sorted(at_rate(url, asked[:96], rates[1] / 2))
        p95 = waits[math.ceil(0.95 * len(waits)) - 1]
        print(f"at half load, {rates[1] / 2:.2f}/s: median {statistics.median(waits):.2f} s, p95 {p95:.2f} s")


async def _overload(url: str, process: psutil.Process, seconds: float, clients: int, before: int) -> None:
    asked = texts(400)
    codes: Counter[int] = Counter()
    without_retry = broken = 0
    memory: list[int] = []
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def one_client(number: int) -> None:
            nonlocal without_retry, broken
            draw = random.Random(number)
            while time.monotonic() < end:
                try:
                    response = await client.post("/predict", json={"text": draw.choice(asked)})
                except httpx.HTTPError:
                    broken += 1
                    continue
                codes[response.status_code] += 1
                if response.status_code == 429:
                    without_retry += "retry-after" not in response.headers
                    await asyncio.sleep(0.2)  # clients that do not wait as long as they are told to

        async def watch() -> None:
            while time.monotonic() < end:
                memory.append(memory_of(process))
                await asyncio.sleep(1)

        await asyncio.gather(watch(), *(one_client(number) for number in range(clients)))
        scraped = (await client.get("/metrics")).text
    counted = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in scraped.splitlines() if "#" not in line
    }
    accepted = counted['odin_requests_total{endpoint="/predict",status="200"}'] - before
    quarter = len(memory) // 4
    first, last = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    print(f"{seconds:.0f} s, {clients} clients: {dict(sorted(codes.items()))}, broken connections {broken}")
    print(f"429 without Retry-After  {without_retry}")
    print(f"answered by the service {accepted:.0f}, received {codes[200]}, lost {accepted - codes[200]:.0f}")
    print(
        f"memory: second quarter {first / 2**20:.0f} MiB, last quarter {last / 2**20:.0f} MiB ({last / first - 1:+.1%})"
    )
    assert not without_retry
    assert not broken
    assert set(codes) <= {200, 429}
    assert codes[429]
    assert accepted == codes[200]


def overload(model: str, seconds: float = 60, clients: int = 96) -> None:
    """Ask for more than the service has room for."""
    with service(model, queue_size=16, max_texts=16, max_windows=16) as (url, process):
        warm = texts(96)
        ask_all(url, warm, 16)
        asyncio.run(_overload(url, process, seconds, clients, len(warm)))


def fuzz(model: str, requests: int) -> None:
    """Send requests that schemathesis makes up from the OpenAPI document, seed after seed until there are enough."""
    with service(model, max_new_tokens=8) as (url, process):
        before = memory_of(process)
        sent: Counter[str] = Counter()
        for seed in itertools.count(1):
            left = requests - sum(sent.values())
            if left <= 0:
                break
            command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--seed", str(seed)]
            command += ["--max-examples", str(min(500, left)), "--request-timeout", "120", "--mode", "all"]
            command += ["--checks", "not_a_server_error,response_schema_conformance,content_type_conformance"]
            command += ["--phases", "fuzzing" if sent else "examples,coverage,fuzzing", "--continue-on-failure"]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
            sent.clear()
            for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines():
                if line.startswith("odin_requests_total{"):
                    labels, _, value = line.rpartition(" ")
                    sent[labels.partition('status="')[2][:3]] += int(float(value))
            print(f"seed {seed}: {sum(sent.values())} requests so far, {dict(sorted(sent.items()))}", flush=True)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        print(f"requests by status: {dict(sorted(sent.items()))}, {sum(sent.values())} in all")
        print(f"memory: {before / 2**20:.0f} MiB before, {memory_of(process) / 2**20:.0f} MiB after")
        assert not [status for status in sent if status.startswith("5")]


def offsets(model: str) -> None:
    """Check every offset that /extract returns, constrained and free."""
    documents = [document.text for document in generate(60, seed=9, corpus="bc5cdr")]
    documents += [f"{one} 😀 {other}" for one, other in zip(texts(140), reversed(texts(140)), strict=True)]
    found = wrong = 0
    with service(model) as (url, _), httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(16) as pool:
        bodies = [{"text": text, "constrained": number % 4 != 0} for number, text in enumerate(documents)]
        answers = pool.map(lambda body: client.post("/extract", json=body).raise_for_status().json(), bodies)
        for text, answer in zip(documents, answers, strict=True):
            sides = [relation[side] for relation in answer["relations"] for side in ("head", "tail")]
            for item in (*answer["entities"], *sides):
                for place in item["occurrences"]:
                    found += 1
                    cut = text[place["begin"] : place["end"]]
                    wrong += cut != place["text"] or cut.casefold() != item["text"].casefold()
    print(f"{len(documents)} documents, {found} mentions, {wrong} whose offsets do not cut them out")
    assert found
    assert not wrong


def batch(model: str) -> None:
    """Kill a batch job of either engine three times and let it end; compare its files with one's that ran through."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "notes.jsonl"
        source.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts(96))))

        def command(target: str, engine: str) -> list[str]:
            parameters = f"documents={source},extraction.shard_size=8,extractions={folder / target}"
            parameters += f",extraction.engine={engine},model={model}"
            return [sys.executable, "-m", "kedro", "run", "--pipelines", "extraction", "--params", parameters]

        subprocess.run(command("whole", "local"), check=True, capture_output=True, cwd=ROOT)
        whole = {file.name: file.read_bytes() for file in (folder / "whole").iterdir()}
        shards = sum(name.endswith(".parquet") for name in whole)
        for engine in ("local", "ray"):
            target = folder / engine
            for part in (2, 5, 8):
                process = subprocess.Popen(
                    command(engine, engine), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                while len(list(target.glob("*.parquet"))) < part and process.poll() is None:
                    time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL, "the job ended before it could be killed"
                there = len(list(target.glob("*.parquet")))
                print(f"{engine}: killed with {there} of {shards} shards there", flush=True)
            subprocess.run(command(engine, engine), check=True, capture_output=True, cwd=ROOT)
            same = {file.name: file.read_bytes() for file in target.iterdir()} == whole
            print(f"{engine}: {shards} shards, bytes equal to those of a job that ran through: {same}", flush=True)
            assert same


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["throughput", "start", "overload", "fuzz", "offsets", "batch"])
    parser.add_argument("number", type=int, nargs="?", default=5000)
    parser.add_argument("--model", default="data/06_models/odin-nano")
    parser.add_argument("--texts", type=int, default=192, help="of throughput")
    parser.add_argument("--turns", type=int, default=3, help="of throughput")
    parser.add_argument("--precision", default="fp32", help="of throughput")
    given = parser.parse_args()
    if given.what == "fuzz":
        fuzz(given.model, given.number)
        return
    if given.what == "throughput":
        throughput(given.model, given.texts, given.turns, given.precision)
        return
    ways: dict[str, Callable[[str], None]] = {"start": start, "overload": overload, "offsets": offsets, "batch": batch}
    ways[given.what](given.model)


if __name__ == "__main__":
    main()
