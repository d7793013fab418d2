"""Decoding by a vLLM server, behind the same interface; for GPUs.

vLLM batches by itself, so that this engine only bounds what is under way. A constrained output takes two requests, as
its grammar has two phases: entities held to the text, then relations of the entities that were listed; the server's
prefix cache makes the second one cheap. The server must decode with llguidance::

    vllm serve MODEL --served-model-name odin --structured-outputs-config '{"backend": "guidance"}'

The protocol (``/v1/completions``, https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html) is tested with
a server of its own kind on loopback that decodes with real grammars; against vLLM on a GPU it has not been run yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx

from odin_slm.engines.constraint import complete_lines
from odin_slm.engines.extraction import Task
from odin_slm.engines.generation import Generation
from odin_slm.errors import GrammarError
from odin_slm.prompt import RELATIONS_HEADER, parse
from odin_slm.serving.engine import CANARY_TOKENS, Observer, QueueFullError, UnavailableError

_RETRY_AFTER = 1


class VllmEngine:
    """Decodes on a vLLM server.

    Args:
        url: The server's address, without ``/v1``.
        model: Name of the model on the server.
        metrics: Where the queue is counted.
        queue_size: Prompts under way, at most.
        max_new_tokens: Budget of an output.
    """

    def __init__(self, url: str, model: str, metrics: Observer, *, queue_size: int, max_new_tokens: int) -> None:
        self._url, self._model, self._metrics = url.rstrip("/"), model, metrics
        self._queue_size, self._max_new_tokens = queue_size, max_new_tokens
        self._under_way = 0
        self._closing = False
        self._nothing_left = asyncio.Event()
        self._client: httpx.AsyncClient | None = None

    def start(self) -> None:
        """Open the connections."""
        limits = httpx.Limits(max_connections=self._queue_size + 1, max_keepalive_connections=self._queue_size + 1)
        self._client = httpx.AsyncClient(base_url=self._url, limits=limits, timeout=None)

    async def write(self, tasks: Sequence[Task], *, timeout: float, canary: bool = False) -> list[Generation]:
        """See :meth:`odin_slm.serving.engine.Engine.write`."""
        if self._closing:
            raise UnavailableError("the service is being stopped")
        if not canary and self._under_way + len(tasks) > self._queue_size:
            raise QueueFullError(_RETRY_AFTER)
        budget = CANARY_TOKENS if canary else self._max_new_tokens
        self._count(len(tasks))
        try:
            async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
                writing = [group.create_task(self._one(number, task, budget)) for number, task in enumerate(tasks)]
        except* (UnavailableError, GrammarError) as group_of_errors:
            raise group_of_errors.exceptions[0] from None
        finally:
            self._count(-len(tasks))
        return [one.result() for one in writing]

    async def stop(self) -> None:
        """See :meth:`odin_slm.serving.engine.Engine.stop`."""
        self._closing = True
        if self._under_way:
            await self._nothing_left.wait()
        if self._client is not None:
            await self._client.aclose()

    def _count(self, change: int) -> None:
        self._under_way += change
        self._metrics.queue.set(self._under_way)
        if not self._under_way:
            self._nothing_left.set()
        else:
            self._nothing_left.clear()

    async def _one(self, number: int, task: Task, budget: int) -> Generation:
        grammar = task.grammar
        if grammar is None:
            text, finished, tokens = await self._complete(task.prompt, budget, None)
            return Generation(number, text, finished, tokens)
        text, finished, tokens = await self._complete(task.prompt, budget, grammar.entities_lark())
        if not finished or not text.endswith(f"{RELATIONS_HEADER}\n") or tokens >= budget:
            return Generation(number, complete_lines(text), False, tokens)
        lark = grammar.relations_lark(parse(text.partition("\n\n")[0]).extraction.entities, f"{RELATIONS_HEADER}\n")
        rest, finished, more = await self._complete(task.prompt + text, budget - tokens, lark)
        whole = text + rest
        return Generation(number, whole if finished else complete_lines(whole), finished, tokens + more)

    async def _complete(self, prompt: str, budget: int, lark: str | None) -> tuple[str, bool, int]:
        body: dict[str, Any] = {"model": self._model, "prompt": prompt, "max_tokens": budget, "temperature": 0}
        if lark is not None:
            body["structured_outputs"] = {"grammar": lark}
        if self._client is None:
            raise UnavailableError("the engine was not started")
        try:
            answer = await self._client.post("/v1/completions", json=body)
        except httpx.HTTPError as error:
            raise UnavailableError(f"the vLLM server does not answer ({type(error).__name__})") from None
        if answer.status_code == 400 and lark is not None:
            raise GrammarError("the vLLM server refuses the text's grammar.", fix="Ask with constrained=false.")
        if answer.status_code != 200:
            raise UnavailableError(f"the vLLM server answers with {answer.status_code}")
        try:
            values = answer.json()
            choice = values["choices"][0]
            return choice["text"], choice["finish_reason"] == "stop", int(values["usage"]["completion_tokens"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise UnavailableError("the vLLM server's answer is not that of /v1/completions") from None
