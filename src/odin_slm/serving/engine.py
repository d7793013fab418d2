"""What the service asks of whoever decodes.

Three engines do, each for a place where the others would not do:

- :class:`odin_slm.serving.threads.ThreadEngine` shares one copy of the weights among its batches: for a GPU, and on a
  CPU for weights so large that arithmetic, not Python, takes the time;
- :class:`odin_slm.serving.processes.ProcessEngine` runs one of these per core, for small models, whose threads would
  wait for each other in Python;
- :class:`odin_slm.serving.vllm.VllmEngine` leaves the decoding to vLLM, for many requests on a GPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from odin_slm.inference.generation import Generation
from odin_slm.inference.reading import Question

CANARY_TOKENS = 12
"""Budget of the output that shows that a model answers."""


class QueueFullError(Exception):
    """More prompts than the queue has room for.

    Args:
        retry_after: Seconds after which there should be room.
    """

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(retry_after)


class UnavailableError(Exception):
    """The engine cannot answer: it is being stopped, or the server behind it does not."""


class Engine(Protocol):
    """Who decodes; every engine holds outputs to their texts by the same grammars."""

    def start(self) -> None:
        """Begin to take prompts."""

    async def write(self, questions: Sequence[Question], *, timeout: float, canary: bool = False) -> list[Generation]:
        """Write one output per question, in the order of the questions.

        Args:
            questions: What to read; all of them are accepted, or none.
            timeout: Seconds until TimeoutError.
            canary: Whether to go before everything that waits, with a budget of a few tokens.

        Raises:
            QueueFullError: There is no room for all of them.
            UnavailableError: The engine is being stopped, or the server behind it fails.
            TimeoutError: The time is up.
            GrammarError: A text cannot be made into a grammar.
            RecordTooLongError: A text does not fit into the model's context.
        """

    async def stop(self) -> None:
        """Take no more prompts, and return when every accepted one has its output."""


class EngineMetrics(Protocol):
    """Where an engine counts."""

    queue: Any
    queue_seconds: Any
    batch: Any
    decoders: Any
    cancelled: Any


class _HasFuture(Protocol):
    future: asyncio.Future[Generation]


AnyJob = TypeVar("AnyJob", bound=_HasFuture)


def unfinished(jobs: Sequence[AnyJob]) -> list[AnyJob]:
    """Return what did not end, when nobody waits for it any more."""
    left = [job for job in jobs if not job.future.done() or job.future.cancelled()]
    for job in left:
        job.future.cancel()
    for job in jobs:
        if job.future.done() and not job.future.cancelled():
            job.future.exception()  # asked for, so that asyncio does not warn of one that nobody has seen
    return left
