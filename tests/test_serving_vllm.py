"""The vLLM engine, against a server of the same protocol that decodes with real grammars on the tiny base."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from odin_slm.engines.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.engines.constraint import Vocabulary
from odin_slm.engines.extraction import Task
from odin_slm.engines.generation import Generator
from odin_slm.engines.served_model import resolve_model
from odin_slm.errors import GrammarError
from odin_slm.prompt import parse
from odin_slm.serving.engine import QueueFullError, UnavailableError
from odin_slm.serving.metrics import Metrics
from odin_slm.serving.vllm import VllmEngine

TASKS = [Task(f"Case {n}: cough and rash followed enalapril.") for n in range(3)]


class Server(ThreadingHTTPServer):
    """``/v1/completions``: greedy, one prompt a request, held by ``structured_outputs.grammar`` (llguidance's Lark)."""

    def __init__(self, base: BaseModel) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.tokenizer = load_model(base), load_tokenizer(base)
        end = self.tokenizer.eos_token_id
        self.vocabulary = Vocabulary(self.tokenizer, self.model.config.vocab_size, [end])
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        import torch
        from llguidance import LLMatcher
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        assert body["temperature"] == 0
        lark = body.get("structured_outputs", {}).get("grammar")
        matcher = LLMatcher(self.vocabulary.tokens, LLMatcher.grammar_from_lark(lark), log_level=0) if lark else None
        ids = self.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        written: list[int] = []
        reason = "length"
        while len(written) < body["max_tokens"]:
            with torch.inference_mode():
                logits = self.model(torch.tensor([ids + written])).logits[0, -1]
            if matcher is not None:
                mask = allocate_token_bitmask(1, self.vocabulary.tokens.vocab_size)
                fill_next_token_bitmask(matcher, mask)
                allowed = [mask[0, t // 32] >> (t % 32) & 1 for t in range(logits.shape[0])]
                logits = logits.masked_fill(~torch.tensor(allowed).bool(), -torch.inf)
            token = int(logits.argmax())
            if token == self.tokenizer.eos_token_id:
                reason = "stop"
                break
            written.append(token)
            if matcher is not None:
                matcher.consume_token(token)
                if matcher.is_stopped():
                    reason = "stop"
                    break
        text = self.tokenizer.decode(written, clean_up_tokenization_spaces=False)
        return {"choices": [{"text": text, "finish_reason": reason}], "usage": {"completion_tokens": len(written)}}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/completions"
        server.gate.wait(20)
        status = server.status
        answer = json.dumps(server.complete(body) if status == 200 else {"error": "no"}).encode()
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


def ask(server: Server, metrics: Metrics, tasks: list[Task], timeout: float = 60, budget: int = 60) -> Any:
    async def once() -> Any:
        address = f"http://127.0.0.1:{server.server_port}/"
        engine = VllmEngine(address, "odin", metrics, queue_size=4, max_new_tokens=budget)
        engine.start()
        try:
            return await engine.write(tasks, timeout=timeout)
        finally:
            await engine.stop()

    return asyncio.run(once())


def test_constrained_outputs_take_both_phases(server: Server, metrics: Metrics, tiny_base: Path) -> None:
    outputs = ask(server, metrics, TASKS, budget=120)
    assert [output.index for output in outputs] == [0, 1, 2]
    for task, output in zip(TASKS, outputs, strict=True):
        parsed = parse(output.text)
        assert parsed.well_formed
        named = {entity.text for entity in parsed.extraction.entities}
        assert named
        assert all(name in task.text for name in named)
        assert all({r.head, r.tail} <= named for r in parsed.extraction.relations)


def test_free_outputs_equal_those_of_the_local_engine(server: Server, metrics: Metrics, tiny_base: Path) -> None:
    tasks = [Task(task.text, constrained=False) for task in TASKS]
    seen: list[Any] = []
    generator = Generator(BaseModel("tiny", tiny_base))
    generator.write_all(generator.rows([t.prompt for t in tasks], max_new_tokens=20), seen.append, 4)
    expected = [replace(output, lines=()) for output in sorted(seen, key=lambda output: output.index)]
    assert ask(server, metrics, tasks, budget=20) == expected  # a server is not asked for probabilities


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
        ask(server, metrics, TASKS[:1], timeout=0.3)
    server.gate.set()


def test_a_server_that_is_not_there_is_named(metrics: Metrics) -> None:
    class Nowhere:
        server_port = 9

    with pytest.raises(UnavailableError, match="does not answer"):
        ask(Nowhere(), metrics, TASKS[:1])  # type: ignore[arg-type]
