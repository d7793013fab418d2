"""The vLLM engines: a server of their protocol, the tiny base in vLLM's place; both decode with real grammars."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from extraction_values import question
from inference.test_vllm_generation import Reference
from odin_slm.core.errors import GrammarError, RecordTooLongError
from odin_slm.inference.generation import Generator
from odin_slm.inference.reading import Question
from odin_slm.inference.served_model import resolve_model
from odin_slm.inference.vllm import Answer, AsyncVllm, Request
from odin_slm.models.base_model import BaseModel
from odin_slm.serving.__main__ import main
from odin_slm.serving.engine import QueueFullError, UnavailableError
from odin_slm.serving.observability import Metrics
from odin_slm.serving.vllm import VllmEngine, VllmServer
from odin_slm.tasks.extraction.format import parse

TASKS = [question(f"Case {n}: cough and rash followed enalapril.") for n in range(3)]


class Server(ThreadingHTTPServer):
    """``/v1/completions``: greedy, one prompt a request, held by ``structured_outputs.grammar`` (llguidance's Lark)."""

    def __init__(self, base: BaseModel) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reference = Reference(base)
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        assert (body["temperature"], body["return_token_ids"]) == (0, True)
        assert (body["repetition_penalty"], body["presence_penalty"], body["frequency_penalty"]) == (1, 0, 0)
        lark = body.get("structured_outputs", {}).get("grammar")
        answer = self.reference.answer(Request(tuple(body["prompt"]), body["max_tokens"], lark))
        tokens = [*answer.tokens, *([self.reference.end] if answer.finished else [])]
        choice = {"token_ids": tokens, "finish_reason": "stop" if answer.finished else "length"}
        return {"choices": [{**choice, "logprobs": {"token_logprobs": answer.log_probabilities}}]}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/completions"
        server.gate.wait(20)
        status = server.status
        answer = json.dumps(server.complete(body) if status == 200 else {"error": "no"}).encode()
        with contextlib.suppress(BrokenPipeError):  # a client that has gone
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tiny_base: Path) -> Iterator[Server]:
    server = Server(BaseModel("tiny", tiny_base))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def metrics(tiny_base: Path) -> Metrics:
    return Metrics(resolve_model(str(tiny_base), root=tiny_base.parent), 4)


def ask(vllm: Any, metrics: Metrics, tasks: list[Question], timeout: float = 60, budget: int = 40) -> Any:
    """Ask the engine in front of a server, or of what stands in for vLLM here."""

    async def once() -> Any:
        there = hasattr(vllm, "server_port")
        way = VllmServer(f"http://127.0.0.1:{vllm.server_port}/", "odin", 5) if there else vllm
        engine = VllmEngine(way, vllm.reference.tokenizer, 1024, metrics, queue_size=4, max_new_tokens=budget)
        engine.start()
        try:
            return await engine.write(tasks, timeout=timeout)
        finally:
            await engine.stop()

    return asyncio.run(once())


def test_constrained_outputs_take_both_phases(server: Server, metrics: Metrics) -> None:
    outputs = ask(server, metrics, TASKS, budget=120)
    assert [output.index for output in outputs] == [0, 1, 2]
    for task, output in zip(TASKS, outputs, strict=True):
        parsed = parse(output.text)
        assert parsed.well_formed
        named = {entity.text for entity in parsed.extraction.entities}
        assert named
        assert all(name in task.text for name in named)
        assert all({r.head, r.tail} <= named for r in parsed.extraction.relations)


@pytest.mark.parametrize("there", [True, False], ids=["server", "in this process"])
def test_outputs_equal_those_of_the_local_engine(
    server: Server, metrics: Metrics, tiny_base: Path, there: bool
) -> None:
    tasks = [*TASKS, question(TASKS[0].text, constrained=False)]
    vllm: Any = server if there else InPlace(tiny_base)
    found = ask(vllm, metrics, tasks)
    seen: list[Any] = []
    generator = Generator(BaseModel("tiny", tiny_base))
    prompts, grammars = [task.prompt for task in tasks], [task.grammar for task in tasks]
    generator.write_all(generator.rows(prompts, max_new_tokens=40, grammars=grammars), seen.append, 4)
    for one, other in zip(found, sorted(seen, key=lambda output: output.index), strict=True):
        assert replace(one, lines=()) == replace(other, lines=())
        assert one.lines == pytest.approx(other.lines, abs=1e-3)
    if not there:
        ask(vllm, metrics, tasks[:1])  # another service, or this one started again
        assert len(set(vllm.names)) == len(vllm.names) >= len(tasks)
        assert vllm.closed


def test_faults_of_the_server_are_named(server: Server, metrics: Metrics) -> None:
    with pytest.raises(QueueFullError):
        ask(server, metrics, [TASKS[0]] * 5)
    for status, error in ((400, GrammarError), (500, UnavailableError), (404, UnavailableError)):
        server.status = status
        with pytest.raises(error):
            ask(server, metrics, TASKS[:1])
    server.status = 200
    server.gate.clear()
    with pytest.raises(TimeoutError):
        ask(server, metrics, TASKS[:2], timeout=0.3)
    server.gate.set()
    assert metrics.cancelled._value.get() == 2


@pytest.mark.parametrize("missing", ["token_ids", "logprobs"])
def test_a_server_that_gives_no_token_ids_is_named(
    server: Server, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    choice = {"text": "", "finish_reason": "stop", "token_ids": [1], "logprobs": {"token_logprobs": [0.0]}}
    monkeypatch.setattr(server, "complete", lambda _: {"choices": [{**choice, missing: None}]})
    with pytest.raises(UnavailableError, match="with token ids"):
        ask(server, metrics, TASKS[:1])


def test_a_server_that_is_not_there_is_named(server: Server, metrics: Metrics) -> None:
    nowhere = SimpleNamespace(server_port=9, reference=server.reference)
    with pytest.raises(UnavailableError, match="does not answer"):
        ask(nowhere, metrics, TASKS[:1])


# vLLM in this process


class InPlace:
    """Answers requests as :class:`AsyncVllm` does, by the tiny base."""

    def __init__(self, base: Path) -> None:
        self.reference = Reference(BaseModel("tiny", base))
        self.names: list[str] = []
        self.fault: Exception | None = None
        self.closed = False

    async def answer(self, request: Request, name: str) -> Answer:
        self.names.append(name)
        if self.fault:
            raise self.fault
        return self.reference.answer(request)

    async def close(self) -> None:
        self.closed = True


def test_faults_of_this_process_are_named(metrics: Metrics, tiny_base: Path) -> None:
    vllm = InPlace(tiny_base)
    free = [question(TASKS[0].text, constrained=False)]
    for fault, tasks, error in (
        (ValueError("the grammar quotes the text"), TASKS[:1], GrammarError),
        (ValueError("no"), free, UnavailableError),
        (RuntimeError("EngineDeadError"), TASKS[:1], UnavailableError),
        (None, [question("word " * 2000)], RecordTooLongError),
    ):
        vllm.fault = fault
        with pytest.raises(error) as raised:
            ask(vllm, metrics, tasks)
        assert "quotes" not in str(raised.value)


def test_what_vllm_is_given(monkeypatch: pytest.MonkeyPatch, tiny_base: Path, tmp_path: Path) -> None:
    """The names are vLLM's own; that they mean there what they mean here only a GPU can show."""
    given: dict[str, Any] = {}

    class AsyncLLM:
        @classmethod
        def from_engine_args(cls, arguments: Any) -> Any:
            given["engine"] = vars(arguments)
            return cls()

        async def generate(self, prompt: Any, sampling: Any, name: str, *, lora_request: Any) -> Any:
            given["asked"] = (prompt, vars(sampling), name, lora_request)
            logprobs = [{7: SimpleNamespace(logprob=-0.1)}, {2: SimpleNamespace(logprob=-0.2)}]
            completion = SimpleNamespace(token_ids=[7, 2], logprobs=logprobs, finish_reason="stop")
            yield SimpleNamespace(outputs=[completion])

    def module(name: str, **names: Any) -> None:
        made = ModuleType(name)
        vars(made).update(names)
        monkeypatch.setitem(sys.modules, name, made)

    module("vllm", SamplingParams=SimpleNamespace)
    module("vllm.config", StructuredOutputsConfig=lambda **options: options)
    module("vllm.engine")
    module("vllm.engine.arg_utils", AsyncEngineArgs=SimpleNamespace)
    module("vllm.v1")
    module("vllm.v1.engine")
    module("vllm.v1.engine.async_llm", AsyncLLM=AsyncLLM)
    module("vllm.lora")
    module("vllm.lora.request", LoRARequest=lambda *arguments: arguments)
    module("vllm.sampling_params", RequestOutputKind=SimpleNamespace(FINAL_ONLY="final"), StructuredOutputsParams=dict)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}')

    vllm = AsyncVllm(BaseModel("tiny", tiny_base), tmp_path)
    answer = asyncio.run(vllm.answer(Request((5, 6), 9, "start: /x/"), "n1"))
    assert answer == Answer((7,), (-0.1, -0.2), True)
    assert given["engine"]["model"] == str(tiny_base)
    assert given["engine"]["trust_remote_code"] is False
    assert given["engine"]["structured_outputs_config"] == {"backend": "guidance"}
    assert given["engine"]["max_lora_rank"] == 16
    prompt, sampling, name, lora = given["asked"]
    assert (prompt, name, lora) == ({"prompt_token_ids": [5, 6]}, "n1", ("adapter", 1, str(tmp_path)))
    assert sampling["structured_outputs"] == {"grammar": "start: /x/"}
    assert (sampling["temperature"], sampling["max_tokens"], sampling["output_kind"]) == (0.0, 9, "final")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_service_says_how_to_get_it(tiny_base: Path) -> None:
    done = CliRunner().invoke(main, ["--engine", "vllm", "--model", str(tiny_base), "--port", "0"])
    assert done.exit_code == 1
    assert 'pip install -e ".[serve,vllm]"' in done.output
    assert "--vllm-url" in done.output


def test_a_model_that_judges_pairs_is_not_served_by_vllm(tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "model")
    (folder / "calibrator.json").write_text('{"pairs": {"mode": "both", "thresholds": {"causes": -1.0}}}')
    done = CliRunner().invoke(main, ["--engine", "vllm", "--model", str(folder), "--port", "0"])
    assert done.exit_code == 1
    assert "judged pairs" in done.output
    assert "--engine local" in done.output
