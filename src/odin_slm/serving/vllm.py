"""Decoding by vLLM behind the service's interface, in this process or on a server; for GPUs.

vLLM batches by itself, so that the engine only bounds what is under way. A constrained output takes a request for each
phase of its grammar, as extraction's has two: entities held to the text, then relations of those that were listed; the
prefix cache makes the second one cheap. A server must decode with llguidance::

    vllm serve MODEL --served-model-name odin --structured-outputs-config '{"backend": "guidance"}'

What is asked and made of the answers is one engine's; only the way to vLLM differs: the engine of this process
(``AsyncLLM``, https://docs.vllm.ai/en/latest/api/vllm/v1/engine/async_llm) needs vLLM's own torch here, a server
(``/v1/completions``, https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html) may stand elsewhere and
answer several services. Both are tested with a tiny base in vLLM's place, which decodes with real grammars.
``benchmarks/vllm_engine.py`` compares both with vLLM itself, which has been done on a CPU, **not on a GPU**.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import httpx

from odin_slm.core.errors import GrammarError, RecordTooLongError
from odin_slm.inference.generation import Generation, prompt_rows
from odin_slm.inference.reading import Question
from odin_slm.inference.vllm import Answer, Output, Request, phases
from odin_slm.serving.engine import CANARY_TOKENS, EngineMetrics, QueueFullError, UnavailableError

_RETRY_AFTER = 1


class Vllm(Protocol):
    """The way to vLLM: :class:`odin_slm.inference.vllm.AsyncVllm`, or :class:`VllmServer`."""

    async def answer(self, request: Request, name: str) -> Answer:
        """Answer one request.

        Args:
            request: What to continue.
            name: A name that no other request under way has.

        Raises:
            ValueError: The request cannot be served, for example as its grammar cannot be built.
            UnavailableError: A server does not answer.
        """

    async def close(self) -> None:
        """Let go of it."""


class VllmEngine:
    """Decodes by vLLM.

    Args:
        vllm: The way to it.
        tokenizer: The model's tokenizer.
        context: Tokens that prompt and output may have together; None where the model names no limit.
        metrics: Where the queue is counted.
        queue_size: Prompts under way, at most.
        max_new_tokens: Budget of an output.
    """

    def __init__(
        self,
        vllm: Vllm,
        tokenizer: Any,
        context: int | None,
        metrics: EngineMetrics,
        *,
        queue_size: int,
        max_new_tokens: int,
    ) -> None:
        self._vllm, self._tokenizer, self._context = vllm, tokenizer, context
        self._metrics, self._queue_size, self._max_new_tokens = metrics, queue_size, max_new_tokens
        # a server may answer several services, and one that was started again, whose names must not be these
        self._names = map(f"{uuid.uuid4().hex}-{{}}".format, itertools.count())
        self._under_way = 0
        self._closing = False
        self._nothing_left = asyncio.Event()

    def start(self) -> None:
        """Do nothing: vLLM runs already."""

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
        await self._vllm.close()

    def _count(self, change: int) -> None:
        self._under_way += change
        self._metrics.queue.set(self._under_way)
        if not self._under_way:
            self._nothing_left.set()
        else:
            self._nothing_left.clear()

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
            return await self._vllm.answer(request, next(self._names))
        except UnavailableError:
            raise
        except ValueError:
            if request.lark is None:
                raise UnavailableError("vLLM refuses the request") from None
            raise GrammarError("vLLM refuses the text's grammar.", fix="Ask with constrained=false.") from None
        except Exception as error:  # its engine process died, or ran out of memory
            raise UnavailableError(f"vLLM fails ({type(error).__name__})") from None


_PLAIN = {"top_p": 1, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
"""What a server would take from the base's ``generation_config.json``; an extraction repeats the words of its input."""


class VllmServer:
    """vLLM on a server.

    Args:
        url: The server's address, without ``/v1``.
        model: Name of the model on the server.
        connections: Requests under way, at most.
    """

    def __init__(self, url: str, model: str, connections: int) -> None:
        self._model = model
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(base_url=url.rstrip("/"), limits=limits, timeout=None)

    async def answer(self, request: Request, name: str) -> Answer:
        """See :meth:`Vllm.answer`."""
        body = {
            "model": self._model,
            "prompt": list(request.tokens),
            "max_tokens": request.limit,
            "temperature": 0,
            **_PLAIN,
            "logprobs": 1,
            "return_token_ids": True,
            **({"structured_outputs": {"grammar": request.lark}} if request.lark else {}),
        }
        try:
            answer = await self._client.post("/v1/completions", json=body, headers={"X-Request-Id": name})
        except httpx.HTTPError as error:
            raise UnavailableError(f"the vLLM server does not answer ({type(error).__name__})") from None
        if answer.status_code == 400:
            raise ValueError(answer.status_code)
        if answer.status_code != 200:
            raise UnavailableError(f"the vLLM server answers with {answer.status_code}")
        try:
            choice = answer.json()["choices"][0]
            chances = [float(chance) for chance in choice["logprobs"]["token_logprobs"]]
            return Answer.of(choice["token_ids"], chances, choice["finish_reason"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise UnavailableError("the vLLM server's answer is not that of /v1/completions with token ids") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
