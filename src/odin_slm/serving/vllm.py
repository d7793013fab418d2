"""Decoding by vLLM, in this process or on a server, behind the same interface; for GPUs.

vLLM batches by itself, so that these engines only bound what is under way. A constrained output takes a request for
each phase of its grammar, as extraction's has two: entities held to the text, then relations of those that were listed;
the prefix cache makes the second one cheap. A server must decode with llguidance::

    vllm serve MODEL --served-model-name odin --structured-outputs-config '{"backend": "guidance"}'

The protocol of the server (``/v1/completions``, https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html)
is tested with a server of its own kind on loopback, the engine of this process (``AsyncLLM``,
https://docs.vllm.ai/en/latest/api/vllm/v1/engine/async_llm) with a tiny base in its place; both decode with real
grammars. ``benchmarks/vllm_engine.py`` compares both with vLLM itself, which has been done on a CPU, **not on a GPU**.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx

from odin_slm.core.errors import GrammarError, RecordTooLongError
from odin_slm.inference.constraint import next_phase
from odin_slm.inference.generation import Generation, prompt_rows
from odin_slm.inference.reading import Question
from odin_slm.inference.vllm import Answer, AsyncVllm, Output, Request, phases
from odin_slm.serving.engine import CANARY_TOKENS, Observer, QueueFullError, UnavailableError

_RETRY_AFTER = 1


class _Bounded(ABC):
    """So many prompts under way, each written by :meth:`_one`.

    Args:
        metrics: Where the queue is counted.
        queue_size: Prompts under way, at most.
        max_new_tokens: Budget of an output.
    """

    def __init__(self, metrics: Observer, *, queue_size: int, max_new_tokens: int) -> None:
        self._metrics, self._queue_size, self._max_new_tokens = metrics, queue_size, max_new_tokens
        self._under_way = 0
        self._closing = False
        self._nothing_left = asyncio.Event()

    @abstractmethod
    async def _one(self, number: int, question: Question, budget: int) -> Generation: ...

    @abstractmethod
    async def _close(self) -> None: ...

    async def write(self, questions: Sequence[Question], *, timeout: float, canary: bool = False) -> list[Generation]:
        """See :meth:`odin_slm.serving.engine.Engine.write`."""
        if self._closing:
            raise UnavailableError("the service is being stopped")
        if not canary and self._under_way + len(questions) > self._queue_size:
            raise QueueFullError(_RETRY_AFTER)
        budget = CANARY_TOKENS if canary else self._max_new_tokens
        self._count(len(questions))
        writing: list[asyncio.Task[Generation]] = []
        try:
            async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
                writing += [group.create_task(self._one(number, one, budget)) for number, one in enumerate(questions)]
        except* (UnavailableError, GrammarError, RecordTooLongError) as group_of_errors:
            raise group_of_errors.exceptions[0] from None
        finally:
            self._metrics.cancelled.inc(sum(one.cancelled() for one in writing))
            self._count(-len(questions))
        return [one.result() for one in writing]

    async def stop(self) -> None:
        """See :meth:`odin_slm.serving.engine.Engine.stop`."""
        self._closing = True
        if self._under_way:
            await self._nothing_left.wait()
        await self._close()

    def _count(self, change: int) -> None:
        self._under_way += change
        self._metrics.queue.set(self._under_way)
        if not self._under_way:
            self._nothing_left.set()
        else:
            self._nothing_left.clear()


class VllmEngine(_Bounded):
    """Decodes in a vLLM engine of this process.

    Args:
        vllm: The engine.
        tokenizer: The model's tokenizer.
        context: Tokens that prompt and output may have together; None where the model names no limit.
        metrics: Where the queue is counted.
        queue_size: Prompts under way, at most.
        max_new_tokens: Budget of an output.
    """

    def __init__(
        self,
        vllm: AsyncVllm,
        tokenizer: Any,
        context: int | None,
        metrics: Observer,
        *,
        queue_size: int,
        max_new_tokens: int,
    ) -> None:
        super().__init__(metrics, queue_size=queue_size, max_new_tokens=max_new_tokens)
        self._vllm, self._tokenizer, self._context = vllm, tokenizer, context
        self._names = itertools.count()

    def start(self) -> None:
        """Do nothing: the engine runs since it was loaded."""

    async def _close(self) -> None:
        await asyncio.to_thread(self._vllm.close)

    async def _one(self, number: int, question: Question, budget: int) -> Generation:
        (row,) = prompt_rows(self._tokenizer, self._context, [question.prompt], None, budget)
        steps = phases([Output(0, tuple(row.prompt), row.limit)], [question.grammar], self._tokenizer)
        requests = next(steps)
        while True:
            answers = [await self._answer(request) for request in requests]
            try:
                requests = steps.send(answers)
            except StopIteration as end:
                (written,) = end.value
                return replace(written, index=number)

    async def _answer(self, request: Request) -> Answer:
        try:
            return await self._vllm.answer(request, str(next(self._names)))
        except ValueError:
            if request.lark is None:
                raise UnavailableError("vLLM refuses the request") from None
            raise GrammarError("vLLM refuses the text's grammar.", fix="Ask with constrained=false.") from None
        except Exception as error:  # its engine process died, or ran out of memory
            raise UnavailableError(f"vLLM fails ({type(error).__name__})") from None


class VllmServerEngine(_Bounded):
    """Decodes on a vLLM server.

    Args:
        url: The server's address, without ``/v1``.
        model: Name of the model on the server.
        metrics: Where the queue is counted.
        queue_size: Prompts under way, at most.
        max_new_tokens: Budget of an output.
    """

    def __init__(self, url: str, model: str, metrics: Observer, *, queue_size: int, max_new_tokens: int) -> None:
        super().__init__(metrics, queue_size=queue_size, max_new_tokens=max_new_tokens)
        self._url, self._model = url.rstrip("/"), model
        self._client: httpx.AsyncClient | None = None

    def start(self) -> None:
        """Open the connections."""
        limits = httpx.Limits(max_connections=self._queue_size + 1, max_keepalive_connections=self._queue_size + 1)
        self._client = httpx.AsyncClient(base_url=self._url, limits=limits, timeout=None)

    async def _close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _one(self, number: int, question: Question, budget: int) -> Generation:
        grammar = question.grammar
        text, lark, spent, phase = "", grammar.lark() if grammar else None, 0, 0
        while True:
            more, finished, tokens = await self._complete(question.prompt + text, budget - spent, lark)
            begun, text, spent = len(text), text + more, spent + tokens
            if grammar is None:
                return Generation(number, text, finished, spent)
            text, lark, closed = next_phase(grammar, phase, text, begun)
            phase += 1
            if closed or (finished and not lark):
                return Generation(number, text, True, spent)
            if not lark or spent >= budget:
                return Generation(number, grammar.complete(text), False, spent)

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
