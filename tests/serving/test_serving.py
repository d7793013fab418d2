"""The HTTP service: answers, refusals, limits, logs and metrics, on a tiny model with random weights."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from conftest import ROOT
from extraction_values import TASK, question
from odin_slm.core.errors import ServingError
from odin_slm.inference.generation import Generation, Generator
from odin_slm.inference.reading import TokenBudget
from odin_slm.inference.served_model import resolve_model
from odin_slm.serving.__main__ import build, main
from odin_slm.serving.answering import Canary
from odin_slm.serving.middleware import RateLimit
from odin_slm.serving.observability import Metrics, text_hash, trace
from odin_slm.serving.settings import ApiKeys, ServingSettings, hash_key
from odin_slm.serving.threads import ThreadEngine
from odin_slm.tasks.answers import Answer
from odin_slm.tasks.extraction.grammar import ExtractionGrammar
from serving_service import SMALL, metric, running, service, service_process, wait_for

LONG = " ".join(f"Patient {n} took enalapril 😀 and aspirin, then had a cough, fever and rash." for n in range(8))
EXAMPLE = TASK.example
KEY = "k" * 43


@pytest.fixture(scope="module")
def client(tiny_base: Path) -> Iterator[httpx.Client]:
    with service(tiny_base, max_texts=8, max_windows=16, max_body_bytes=20_000) as client:
        yield client


def assert_grounded(text: str, found: dict[str, Any]) -> int:
    """Every offset cuts its mention out of the text; return how many there are."""
    sides = [relation[side] for relation in found["relations"] for side in ("head", "tail")]
    places = [place for item in (*found["entities"], *sides) for place in item["occurrences"]]
    assert all(text[place["begin"] : place["end"]] == place["text"] for place in places)
    return len(places)


# Answers


def test_one_text_is_read(client: httpx.Client) -> None:
    answer = client.post("/predict", json={"text": EXAMPLE})
    assert answer.status_code == 200
    value = answer.json()
    assert value["model"] == client.get("/model").json()["digest"]
    assert value["constrained"] is True
    assert value["processing_ms"] > 0
    (found,) = value["results"]
    assert found["output"].startswith("### Entities:\n")
    assert found["tokens"] > 0
    assert found["entities"], "held to the text, even random weights name something"
    assert all(entity["occurrences"] and 0 <= entity["confidence"] <= 1 for entity in found["entities"])
    assert_grounded(EXAMPLE, found)


def test_one_bad_text_costs_no_other_its_answer(client: httpx.Client) -> None:
    texts = [EXAMPLE, None, " \n ", "word " * 2000, "half \ud800", "\u200b", 5, EXAMPLE]
    body, kind = json.dumps({"texts": texts, "schema": "ade"}), {"content-type": "application/json"}
    results = client.post("/predict", content=body, headers=kind).json()["results"]
    (alone,) = client.post("/predict", json={"text": EXAMPLE, "schema": "ade"}).json()["results"]
    assert results[0] == results[-1] == alone
    assert alone["error"] is None
    reasons = ("missing", "blank", "use /extract", "surrogate", "blank", "int")
    for result, reason in zip(results[1:-1], reasons, strict=True):
        assert reason in result["error"]
        assert (result["entities"], result["relations"], result["tokens"], result["finished"]) == ([], [], 0, False)
    assert all(r["error"] for r in client.post("/predict", json={"texts": [None, ""]}).json()["results"])


def test_a_batch_is_answered_in_order_as_its_texts_are_one_by_one(client: httpx.Client) -> None:
    texts = [f"{EXAMPLE} Case {n}." for n in range(5)]
    together = client.post("/predict", json={"texts": texts, "schema": "ade"}).json()["results"]
    assert [client.post("/predict", json={"text": t, "schema": "ade"}).json()["results"][0] for t in texts] == together


def test_many_clients_get_what_each_would_get_alone(client: httpx.Client) -> None:
    texts = [f"Case {n}: {EXAMPLE}" for n in range(24)]

    def ask(text: str) -> Any:
        return client.post("/predict", json={"text": text}).json()["results"]

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, texts))
    assert [ask(text) for text in texts] == together
    sizes = [metric(client, f'odin_batch_size_bucket{{le="{size}.0"}}') for size in (1, 8)]
    assert sizes[0] < sizes[1], "some prompts were decoded together"


def test_free_decoding_and_schemas_are_offered(client: httpx.Client) -> None:
    value = client.post("/predict", json={"text": EXAMPLE, "constrained": False, "schema": "bc5cdr"}).json()
    assert value["constrained"] is False
    assert value["results"][0]["well_formed"] is False


def test_a_model_is_read_at_the_operating_point_that_lies_beside_it(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "tiny"
    shutil.copytree(tiny_base, base)
    point = {"version": 1, "end_bias": {"entity": 50.0, "relation": 50.0}}
    calibrator = {"entity": {"method": "none"}, "relation": {"method": "none"}, "operating_point": point}
    (base / "calibrator.json").write_text(json.dumps(calibrator))
    nothing = "### Entities:\nNone\n\n### Relations:\nNone"
    with service(base) as client:
        (found,) = client.post("/predict", json={"text": EXAMPLE}).json()["results"]
        assert (found["output"], found["entities"]) == (nothing, [])
        document = client.post("/extract", json={"text": LONG}).json()
        assert {window["output"] for window in document["windows"]} == {nothing}
        (free,) = client.post("/predict", json={"text": EXAMPLE, "constrained": False}).json()["results"]
        assert free["output"] != nothing


def test_a_long_document_is_read_in_windows(client: httpx.Client) -> None:
    value = client.post("/extract", json={"text": LONG}).json()
    assert len(value["windows"]) > 2
    assert (value["windows"][0]["begin"], value["windows"][-1]["end"]) == (0, len(LONG))
    assert assert_grounded(LONG, value) > 0
    names = [(entity["type"], entity["text"].casefold()) for entity in value["entities"]]
    assert len(names) == len(set(names)), "duplicates are merged"


def test_a_document_of_one_window_is_read_as_by_predict(client: httpx.Client) -> None:
    extracted = client.post("/extract", json={"text": EXAMPLE}).json()
    predicted = client.post("/predict", json={"text": EXAMPLE}).json()["results"][0]
    assert [extracted[name] for name in ("entities", "relations")] == [
        predicted[name] for name in ("entities", "relations")
    ]


def test_it_says_what_it_is(client: httpx.Client, tiny_base: Path) -> None:
    assert client.get("/health").json() == {"status": "alive"}
    assert [client.head(path).status_code for path in ("/health", "/ready")] == [200, 200]
    assert client.get("/ready").json()["status"] == "ready"
    assert metric(client, "odin_ready") == 1.0
    card = client.get("/model").json()
    assert (card["source"], card["engine"], card["base"]) == (str(tiny_base), "local", "tiny")
    assert card["limits"]["max_new_tokens"] == SMALL["max_new_tokens"]
    assert card["schemas"]["ade"] == {"entities": ["Drug", "Symptom"], "relations": ["causes"]}


def test_the_openapi_document_has_examples_that_are_answered(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for name, path in (("PredictRequest", "/predict"), ("ExtractRequest", "/extract")):
        examples = document["components"]["schemas"][name]["examples"]
        assert examples
        for example in examples:
            assert client.post(path, json=example).status_code == 200
        assert {"400", "401", "413", "422", "429", "503"} <= set(document["paths"][path]["post"]["responses"])


# Refusals


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"text": ', 400),
        (b"\xff\xfe", 400),
        (b"[" * 15_000, 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"text": "a", "texts": ["b"]}', 422),
        (b'{"texts": []}', 422),
        (b'{"text": " \\n "}', 422),
        (b'{"text": "half \\ud800"}', 422),
        (b'{"text": "a", "schema": "mine"}', 422),
        (b'{"text": "a", "temperature": 1}', 422),
        (json.dumps({"texts": ["a"] * 9}).encode(), 413),
        (json.dumps({"text": "word " * 2000}).encode(), 413),
        (b'{"text": "' + b"a" * 20_000 + b'"}', 413),
    ],
)
def test_what_cannot_be_read_is_refused(client: httpx.Client, body: bytes, status: int) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    value = answer.json()
    assert set(value) == {"error", "details", "request_id"}
    assert value["request_id"] == answer.headers["x-request-id"]
    assert "half" not in answer.text, "an error does not repeat the text"


def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(client: httpx.Client) -> None:
    answer = client.post("/predict", content=iter([b'{"text": "', *[b"a" * 5000] * 9, b'"}']))
    assert answer.status_code == 413


def test_other_errors_have_the_same_form(client: httpx.Client) -> None:
    missing, method = client.get("/nothing"), client.get("/predict")
    assert (missing.status_code, missing.json()["error"]) == (404, "not_found")
    assert (method.status_code, method.json()["error"]) == (405, "method_not_allowed")
    assert method.headers["allow"] == "POST"


def test_a_text_without_grammar_is_refused_and_its_neighbours_are_not(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ExtractionGrammar.lark
    monkeypatch.setattr(
        ExtractionGrammar, "lark", lambda self: "start: nonsense" if "bad" in self.text else original(self)
    )
    with service(tiny_base, workers=1, batch_wait_ms=200) as client, ThreadPoolExecutor(4) as pool:
        texts = [EXAMPLE, "bad text", f"{EXAMPLE} Again."]
        codes = list(pool.map(lambda text: client.post("/predict", json={"text": text}).status_code, texts))
        assert codes == [200, 422, 200]
        assert metric(client, 'odin_batch_size_bucket{le="1.0"}') == 0, "they were one batch"


def test_a_defect_of_the_program_is_500_and_tells_nothing(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("quotes the secret text")

    with service(tiny_base) as client:
        monkeypatch.setattr(Generator, "write", fail)
        answer = client.post("/predict", json={"text": "secret text"})
        assert client.get("/ready").status_code == 503
    assert answer.status_code == 500
    assert set(answer.json()) == {"error", "details", "request_id"}
    assert "secret" not in answer.text


# Keys and rates


def test_keys_are_asked_for_where_there_are_some(tiny_base: Path) -> None:
    with service(tiny_base, keys=f"clinic:{hash_key(KEY)}, other:{hash_key('x')}") as client:
        for headers in ({}, {"x-api-key": "wrong"}, {"authorization": f"Basic {KEY}"}, {"x-api-key": hash_key(KEY)}):
            refused = client.post("/predict", json={"text": EXAMPLE}, headers=headers)
            assert (refused.status_code, refused.json()["error"]) == (401, "unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"
        for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            assert client.post("/predict", json={"text": EXAMPLE}, headers=headers).status_code == 200
        assert client.get("/model").status_code == 401
        assert [client.get(path).status_code for path in ("/", "/health", "/ready", "/metrics")] == [200] * 4
        schemes = client.get("/openapi.json").json()["components"]["securitySchemes"]
        assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}


# The router's patterns end in "$", which also matches before a final line feed.
DISGUISED = [("POST", "/predict%0A"), ("POST", "/extract%0A"), ("GET", "/model%0A")]


def test_no_spelling_of_a_path_goes_without_a_key(tiny_base: Path) -> None:
    with service(tiny_base, keys=f"clinic:{hash_key(KEY)}") as client:
        for method, path in [*DISGUISED, ("POST", "/predict/"), ("GET", "/nothing")]:
            assert client.request(method, path, json={"text": EXAMPLE}).status_code == 401, path
        assert client.get("/nothing", headers={"x-api-key": KEY}).status_code == 404
        assert metric(client, 'odin_requests_total{endpoint="other",status="401"}') == 5


@pytest.mark.parametrize(("method", "path"), DISGUISED)
def test_no_spelling_of_a_path_goes_without_the_rate_limit(tiny_base: Path, method: str, path: str) -> None:
    with service(tiny_base, rate_limit="1/hour", max_body_bytes=1024) as client:
        assert client.request(method, path, content=b" " * 1025).status_code == 413
        client.request(method, path, json={"text": EXAMPLE})
        assert client.request(method, path, json={"text": EXAMPLE}).status_code == 429


@pytest.mark.parametrize(
    "written", ["clinic", "clinic:abc", f"a:{hash_key('x')},a:{hash_key('y')}", f":{hash_key('')}"]
)
def test_malformed_keys_stop_the_start(written: str) -> None:
    with pytest.raises(ServingError, match="NAME:SHA256"):
        ApiKeys(written)


def test_a_new_key_opens_the_service() -> None:
    lines = CliRunner().invoke(main, ["new-key", "clinic"]).output.splitlines()
    key, pair = (line.split()[-1] for line in lines)
    assert ApiKeys(pair).name_of(key) == "clinic"
    assert ApiKeys(pair).name_of(f"{key}x") is None
    assert CliRunner().invoke(main, ["new-key", "two words"]).exit_code != 0


def test_the_rate_is_limited_by_key(tiny_base: Path) -> None:
    keys = f"a:{hash_key('a')},b:{hash_key('b')}"
    with service(tiny_base, keys=keys, rate_limit="3/minute") as client:
        codes = [client.get("/model", headers={"x-api-key": "a"}).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        refused = client.get("/model", headers={"x-api-key": "a"})
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert client.get("/model", headers={"x-api-key": "b"}).status_code == 200
        assert metric(client, 'odin_refused_requests_total{reason="rate_limit"}') == 2
    for written in ("often", "0/minute", "10/second; 600/minute"):
        with pytest.raises(ServingError, match=r"not a rate limit .*600/minute"):
            service(tiny_base, rate_limit=written).__enter__()


def test_a_request_that_outlasts_the_end_of_the_service_is_told_so(tiny_base: Path) -> None:
    with service_process(model=tiny_base, decoders="threads", drain_s=1) as (process, client):
        with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=30) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            wait_for(lambda: metric(client, "odin_requests_in_flight") >= 2)
            process.send_signal(signal.SIGTERM)
            answer = slow.makefile("rb").read().decode()
        assert process.wait(20) == 0
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr]
    assert answer.startswith("HTTP/1.1 503")
    assert "retry-after: 1" in answer
    assert "unavailable" in answer
    assert [line["status"] for line in lines if line.get("endpoint") == "/predict"] == [503]
    assert not any("traceback" in line for line in lines)


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "http://", "http://host:port", "ftp://host"])
def test_an_address_of_vllm_that_is_none_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(ValidationError, match=r"vllm_url\s+.*expected an address as http://127.0.0.1:8001"):
        ServingSettings(vllm_url=address)
    assert ServingSettings(vllm_url="http://host:8001/v1/").vllm_url == "http://host:8001"


@pytest.mark.parametrize("storage", ["reddis://:sesame@host:6379", "redis://:ses:ame@host:x", "nowhere"])
def test_a_storage_that_cannot_be_used_is_named_without_its_password(storage: str) -> None:
    with pytest.raises(ServingError, match="--rate-limit-storage: the counts cannot be kept there") as caught:
        RateLimit("600/minute", storage)
    assert "ses" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_counts_out_of_reach_limit_the_rate_of_each_process(tiny_base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port, and it refuses
        storage = f"redis://:sesame@127.0.0.1:{closed.getsockname()[1]}"
        with service(tiny_base, rate_limit="3/minute", rate_limit_storage=storage) as client:
            codes = [client.get("/model").status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    warned = [record.getMessage() for record in caplog.records if "out of reach" in record.getMessage()]
    assert len(warned) == 1, "not with every request"
    assert "sesame" not in warned[0]


def test_no_other_origin_may_ask(client: httpx.Client) -> None:
    headers = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    preflight = client.options("/predict", headers=headers)
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


# Load, time and clients that go


class Gate:
    """Holds the decoding until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.held, original = threading.Event(), threading.Event(), Generator.write

        def write(generator: Generator, *arguments: Any) -> None:
            self.held.set()
            assert self.open.wait(30)
            original(generator, *arguments)

        monkeypatch.setattr(Generator, "write", write)


def post(client: httpx.Client, text: str = EXAMPLE) -> httpx.Response:
    return client.post("/predict", json={"text": text})


def test_a_document_far_too_long_is_refused_before_it_is_cut(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[int] = []
    windows = TokenBudget.windows

    def noted(budget: TokenBudget, text: str, overlap: int) -> list[tuple[int, int]]:
        cut.append(len(text))
        return windows(budget, text, overlap)

    monkeypatch.setattr(TokenBudget, "windows", noted)
    with service(tiny_base, max_windows=2) as client:
        answer = client.post("/extract", json={"text": "a-" * 50_000})
        assert (answer.status_code, cut) == (413, [])
        assert "tokens, at most 2 windows" in answer.json()["details"]
        assert client.post("/extract", json={"text": EXAMPLE + " " * 50_000 + EXAMPLE}).status_code == 200


def test_a_full_queue_refuses_and_loses_nothing(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    small = {"queue_size": 3, "max_texts": 3, "max_windows": 3, "workers": 1, "batch_wait_ms": 0}
    with service(tiny_base, **small) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, client)
        wait_for(gate.held.is_set)
        waiting = [pool.submit(post, client) for _ in range(3)]
        wait_for(lambda: metric(client, "odin_queue_length") == 3)
        refused = post(client)
        assert (refused.status_code, refused.json()["error"]) == (429, "too_many_requests")
        assert int(refused.headers["retry-after"]) >= 1
        assert metric(client, 'odin_refused_requests_total{reason="queue_full"}') == 1
        gate.open.set()
        assert [one.result().status_code for one in (first, *waiting)] == [200] * 4


def test_an_answer_that_takes_too_long_is_given_up(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with service(tiny_base, timeout_s=1.5) as client:  # an answer takes a tenth of it, on a busy machine more
        answer = post(client)
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        gate.open.set()
        assert metric(client, "odin_cancelled_prompts_total") == 1
        wait_for(lambda: post(client).status_code == 200)


def test_a_client_that_goes_frees_its_place(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with service(tiny_base, workers=1, batch_wait_ms=0) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, client)
        wait_for(gate.held.is_set)
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as going:
            body = json.dumps({"texts": [EXAMPLE] * 4}).encode()
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            going.sendall(head.encode() + b"\r\n\r\n" + body)
            wait_for(lambda: metric(client, "odin_queue_length") == 4)
        wait_for(lambda: metric(client, "odin_queue_length") == 0)
        wait_for(lambda: metric(client, 'odin_requests_total{endpoint="/predict",status="499"}') == 1)
        assert metric(client, "odin_cancelled_prompts_total") == 4
        gate.open.set()
        assert first.result().status_code == 200
        assert metric(client, "odin_outputs_total") == 1


def test_a_row_that_nobody_waits_for_leaves_its_batch(tiny_base: Path) -> None:
    generator = Generator(resolve_model(str(tiny_base), root=tiny_base.parent).base)
    tokens = 0

    def cancelled() -> bool:
        nonlocal tokens
        tokens += 1
        return tokens >= 5

    tasks, seen = [question(EXAMPLE), question(f"{EXAMPLE} Again.")], []
    rows = generator.rows(
        [task.prompt for task in tasks],
        max_new_tokens=30,
        grammars=[task.grammar for task in tasks],
        cancelled=[cancelled, lambda: False],
    )
    generator.write(rows, seen.append)
    assert [output.index for output in seen] == [1]
    # It is asked once a step, in which forced tokens are written too.
    assert 5 <= len(rows[0].written) < 30


@dataclass(eq=False)
class EndlessRow:
    index: int
    cancelled: Any


class Endless:
    """A generator that writes on until nobody waits for any of its rows."""

    on_cpu = True

    def __init__(self) -> None:
        self.made: list[weakref.ref[Any]] = []
        self.begun = 0

    @property
    def alive(self) -> int:
        gc.collect()
        return sum(row() is not None for row in self.made)

    def rows(self, prompts: list[str], *, cancelled: list[Any], **_: Any) -> list[Any]:
        rows = [EndlessRow(place, one) for place, one in enumerate(cancelled)]
        self.made += map(weakref.ref, rows)
        return rows

    def prepare(self, rows: list[Any]) -> None:
        self.begun += len(rows)

    def write(self, rows: list[Any], give: Any, more: Any) -> None:
        while rows:
            time.sleep(0.001)
            rows = [row for row in rows if not row.cancelled()]
            rows = [*rows, *more(len(rows))]


def test_a_batch_that_never_ends_keeps_nothing_of_those_that_left(tiny_base: Path) -> None:
    metrics = Metrics(resolve_model(str(tiny_base), root=tiny_base.parent), 64)
    generator: Any = Endless()

    async def ask() -> int:
        engine = ThreadEngine(generator, metrics, workers=1, batch_size=4, batch_wait=0)
        engine.start()
        asked: deque[asyncio.Task[Any]] = deque()
        for number in range(100):
            asked.append(asyncio.create_task(engine.write([question(EXAMPLE)], timeout=60)))
            while generator.begun <= number and not asked[-1].done():
                await asyncio.sleep(0.001)
            if len(asked) > 1:  # the one before keeps the batch under way
                asked.popleft().cancel()
                await asyncio.sleep(0)
        alive: int = generator.alive
        asked.popleft().cancel()
        await engine.stop()
        return alive

    assert 1 <= asyncio.run(ask()) <= 8


def test_a_stopped_service_finishes_what_it_accepted(tiny_base: Path) -> None:
    with service_process(model=tiny_base, workers=1, max_new_tokens=400, batch_size=1) as (process, client):
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(post, client, f"{EXAMPLE} Case {n}.") for n in range(5)]
            wait_for(lambda: metric(client, "odin_requests_in_flight") >= 6)  # the five, and the scrape itself
            process.send_signal(signal.SIGTERM)
            assert [one.result().status_code for one in answers] == [200] * 5
        assert process.stderr is not None
        rest = process.stderr.read()
        assert process.wait(20) == 0
    assert '"stopped"' in rest
    assert EXAMPLE[:20] not in rest, "no text in the logs"


# What is written about requests


def test_logs_hold_the_request_id_and_hashes_but_no_text(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "Mrs Miller took enalapril."
    for path, body in (
        ("/predict", {"text": secret}),
        ("/extract", {"text": secret}),
        ("/predict", {"text": [secret]}),
    ):
        client.post(path, json=body, headers={"x-request-id": "trace-7"})
    said = [record for record in caplog.records if record.name == "odin_slm.access"]
    assert [record.__dict__["status"] for record in said][-3:] == [200, 200, 422]
    assert said[-3].__dict__["sha256"] == [text_hash(secret)]
    assert not [record for record in caplog.records if "Miller" in str(record.__dict__)]


def test_the_log_is_json_with_the_request_id(tmp_path: Path) -> None:
    program = (
        "import logging; from odin_slm.serving.observability import REQUEST_ID, set_up_logs;"
        "set_up_logs('info'); REQUEST_ID.set('r-1');"
        "logging.getLogger('a.b').warning('äh', extra={'status': 7})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    line = json.loads(done.stderr)
    assert {name: line[name] for name in ("level", "logger", "message", "request_id", "status")} == {
        "level": "WARNING",
        "logger": "a.b",
        "message": "äh",
        "request_id": "r-1",
        "status": 7,
    }


def test_a_made_up_request_id_is_replaced(client: httpx.Client) -> None:
    given = client.get("/health", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert given != "a b\tc"
    assert client.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"


def test_metrics_count_what_happened(tiny_base: Path) -> None:
    with service(tiny_base) as client:
        assert math.isnan(metric(client, "odin_ready")), "nobody has asked yet, which is no alert"
        assert client.get("/ready").status_code == metric(client, "odin_ready") * 200 == 200
        found = post(client).json()["results"][0]
        client.get("/made/up/path")
        client.post("/predict", json={"text": EXAMPLE, "constrained": False})
        assert metric(client, 'odin_requests_total{endpoint="/predict",status="200"}') == 2
        assert metric(client, 'odin_requests_total{endpoint="other",status="404"}') == 1
        assert metric(client, "odin_generated_tokens_total") > found["tokens"]
        assert metric(client, 'odin_invalid_outputs_total{reason="malformed"}') == 1
        kinds = [entity["type"] for entity in found["entities"]]
        assert metric(client, f'odin_entities_total{{type="{kinds[0]}"}}') >= kinds.count(kinds[0])
        assert metric(client, "odin_queue_capacity") == SMALL["queue_size"]
        assert metric(client, 'odin_request_seconds_count{endpoint="/predict"}') == 2
        assert "odin_model_info{" in client.get("/metrics").text


def test_every_window_of_a_document_counts(tiny_base: Path, tmp_path: Path) -> None:
    metrics = Metrics(resolve_model(str(tiny_base), root=tmp_path), queue_size=1)
    outputs = [
        Generation(0, text, True, 1)
        for text in ("no list", "none either\nat all", "### Entities:\nNone\n\n### Relations:\nNone")
    ]
    metrics.observe(Answer("", malformed=3), outputs)
    invalid = partial(metrics.registry.get_sample_value, "odin_invalid_outputs_total")
    assert metrics.registry.get_sample_value("odin_outputs_total") == 3
    assert invalid({"reason": "malformed"}) == sum(bool(metrics._task.faults(output.text)) for output in outputs) == 2


def test_callers_that_wait_together_share_an_answer_or_a_failure(tiny_base: Path, tmp_path: Path) -> None:
    model = resolve_model(str(tiny_base), root=tmp_path)
    asked: list[float] = []

    class Hangs:
        async def write(self, *_: Any, **__: Any) -> Any:
            asked.append(time.monotonic())
            await asyncio.sleep(0.2)
            raise TimeoutError

    async def many() -> list[float | None]:
        canary = Canary(model, Hangs(), Metrics(model, queue_size=1))
        together = await asyncio.gather(*(canary.ask() for _ in range(8)))
        return [*together, await canary.ask()]

    assert asyncio.run(many()) == [None] * 9
    assert len(asked) <= 3, "the first, perhaps one for those that came while it was asked, and the last"


def test_traces_reach_a_collector_and_hold_no_text(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    app = build(ServingSettings(**SMALL), ApiKeys(), resolve_model(str(tiny_base), root=tiny_base.parent))
    assert trace(app, os.environ)
    with running(app) as address:
        httpx.post(f"{address}/predict", json={"text": EXAMPLE}, timeout=60)
        httpx.get(f"{address}/health")
        wait_for(lambda: received)
    collector.shutdown()
    request = ExportTraceServiceRequest.FromString(received[0])
    spans = [span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["POST /predict"]
    assert b"enalapril" not in b"".join(received)
    assert not trace(app, {}), "nothing is sent unless it is asked for"


# The command


def test_faulty_settings_are_named(tiny_base: Path) -> None:
    for words, message in (
        (["--max-texts", "99", "--queue-size", "4"], "max_texts (99) must not exceed queue_size (4)"),
        (["--port", "-1"], "port"),
        (["--model", "nowhere"], "there is no such folder"),
        (["--model", str(tiny_base), "--digest", f"sha256:{'0' * 64}"], "expected sha256:000"),
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 1
        assert message in done.output


def test_a_port_in_use_is_named(tiny_base: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(main, ["--model", str(tiny_base), "--port", str(port)])
    assert done.exit_code == 1
    assert f"127.0.0.1:{port}: cannot listen there" in done.output


def test_every_setting_is_an_option_and_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {parameter.name: parameter for parameter in main.params}
    assert set(ServingSettings.model_fields) <= set(options)
    for name, field in ServingSettings.model_fields.items():
        assert options[name].envvar == f"ODIN_SLM_{name.upper()}"
        assert field.description
    monkeypatch.setenv("ODIN_SLM_MODEL", "from-the-environment")
    assert "from-the-environment" in CliRunner().invoke(main, []).output
