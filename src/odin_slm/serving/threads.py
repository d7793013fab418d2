"""Dynamic micro-batching: prompts of many requests are decoded together.

A prompt waits in a bounded queue until a worker thread takes it into a batch, a new one or one that is under way and
has lost some of its rows. Every output goes back to its request as soon as it ends, whatever the rest of the batch
does. A prompt whose request is gone (the client closed the connection, or the time is up) leaves the queue, or its
batch after the next token.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from odin_slm.core.errors import GrammarError
from odin_slm.inference.generation import Generation, Generator
from odin_slm.inference.reading import Question
from odin_slm.serving.engine import CANARY_TOKENS, EngineMetrics, QueueFullError, UnavailableError, unfinished

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Job:
    row: Any
    future: asyncio.Future[Generation]
    loop: asyncio.AbstractEventLoop
    entered: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    def settle(self, act: Callable[[asyncio.Future[Generation]], None]) -> None:
        def now() -> None:
            if not self.future.done():
                act(self.future)

        self.loop.call_soon_threadsafe(now)


_JOIN_SHARE = 4  # a quarter of a batch is worth its while
_JOIN_WAIT = 0.05


class ThreadEngine:
    """Decodes in threads of this process.

    Args:
        generator: The model.
        metrics: Where queue and batches are counted.
        workers: Threads that decode a batch each; 0: one per core on a CPU, one on a GPU.
        batch_size: Prompts decoded together, at most.
        batch_wait: Seconds that a batch that is not full waits for more.
        queue_size: Prompts that may wait.
        max_new_tokens: Budget of an output.
    """

    def __init__(
        self,
        generator: Generator,
        metrics: EngineMetrics,
        *,
        workers: int = 0,
        batch_size: int = 32,
        batch_wait: float = 0.004,
        queue_size: int = 64,
        max_new_tokens: int = 256,
    ) -> None:
        import torch

        self._generator, self._metrics = generator, metrics
        self._workers = workers or (torch.get_num_threads() if generator.on_cpu else 1)
        self._batch_size, self._batch_wait = batch_size, batch_wait
        self._queue_size, self._max_new_tokens = queue_size, max_new_tokens
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._closing = False
        self._seconds_per_output = 0.2
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the worker threads."""
        for number in range(self._workers):
            thread = threading.Thread(target=self._work, name=f"decode-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._metrics.decoders.set(self._workers)

    async def write(self, questions: Sequence[Question], *, timeout: float, canary: bool = False) -> list[Generation]:
        """See :meth:`odin_slm.serving.engine.Engine.write`."""
        jobs = self._accept(questions, canary)
        try:
            async with asyncio.timeout(timeout):
                return list(await asyncio.gather(*(job.future for job in jobs)))
        finally:
            self._forget(jobs)

    async def stop(self) -> None:
        """See :meth:`odin_slm.serving.engine.Engine.stop`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _accept(self, questions: Sequence[Question], canary: bool) -> list[_Job]:
        loop = asyncio.get_running_loop()
        jobs: list[_Job] = []
        rows = self._generator.rows(
            [question.prompt for question in questions],
            max_new_tokens=CANARY_TOKENS if canary else self._max_new_tokens,
            grammars=[question.grammar for question in questions],
            cancelled=[lambda place=place: jobs[place].cancelled for place in range(len(questions))],  # type: ignore[misc]
        )
        jobs += [_Job(row, loop.create_future(), loop) for row in rows]
        with self._changed:
            if self._closing:
                raise UnavailableError("the service is being stopped")
            if not canary and len(self._queue) + len(jobs) > self._queue_size:
                raise QueueFullError(max(1, math.ceil(len(self._queue) * self._seconds_per_output)))
            if canary:
                self._queue.extendleft(jobs)
            else:
                self._queue.extend(jobs)
            self._metrics.queue.set(len(self._queue))
            self._changed.notify()
        return jobs

    def _forget(self, jobs: list[_Job]) -> None:
        """Let go of what did not end: what waits leaves the queue, what is being written leaves its batch."""
        if left := unfinished(jobs):
            for job in left:
                job.cancelled = True
            self._metrics.cancelled.inc(len(left))
            with self._changed:
                self._queue = deque(job for job in self._queue if not job.cancelled)
                self._metrics.queue.set(len(self._queue))

    def _work(self) -> None:
        import torch

        if self._generator.on_cpu and self._workers > 1:
            torch.set_num_threads(1)  # a token of one batch is too little work to share among cores
        while jobs := self._take():
            self._write(jobs)

    def _take(self) -> list[_Job]:
        """Wait for prompts, and a little longer for a full batch; nothing means that the engine stops."""
        with self._changed:
            self._idle += 1
            try:
                while True:
                    self._changed.wait_for(lambda: self._queue or self._closing)
                    if self._batch_wait and not self._closing:
                        self._changed.wait_for(
                            lambda: len(self._queue) >= self._batch_size or self._closing, self._batch_wait
                        )
                    if self._queue or self._closing:
                        # Workers that wait as well get their share: two half batches on two cores end before a whole.
                        return self._pop(min(self._batch_size, math.ceil(len(self._queue) / self._idle)), 0)
            finally:
                self._idle -= 1

    def _more(self, active: int) -> list[_Job]:
        """Take what waits into a batch that is under way.

        Reading a prompt holds up the whole batch, so that a few are read together; one that has waited goes at once.
        """
        with self._changed:
            waiting, free = len(self._queue), self._batch_size - active
            if not waiting or free < 1 or self._idle:  # idle workers have been woken for it
                return []
            few = waiting < max(1, active // _JOIN_SHARE)
            if few and time.monotonic() - self._queue[0].entered < _JOIN_WAIT:
                return []
            return self._pop(min(free, math.ceil(waiting / self._workers)), active)

    def _pop(self, count: int, active: int) -> list[_Job]:
        jobs = [self._queue.popleft() for _ in range(count)]
        self._metrics.queue.set(len(self._queue))
        if self._queue:
            self._changed.notify()
        now = time.monotonic()
        for job in jobs:
            self._metrics.queue_seconds.observe(now - job.entered)
        if jobs:
            self._metrics.batch.observe(active + len(jobs))
        return jobs

    def _write(self, jobs: list[_Job]) -> None:
        """Decode a batch until nothing is left in it."""
        batch: dict[int, _Job] = {}
        numbers = itertools.count()

        def join(jobs: list[_Job]) -> list[Any]:
            rows = []
            # No output comes of those that nobody waits for, and under load a batch may never end.
            for index in [index for index, job in batch.items() if job.cancelled]:
                del batch[index]
            for job in jobs:
                try:
                    self._generator.prepare([job.row])
                except GrammarError as error:
                    self._fail([job], error)
                else:
                    job.row.index = next(numbers)
                    batch[job.row.index] = job
                    rows.append(job.row)
            return rows

        last = time.monotonic()

        def give(output: Generation) -> None:
            nonlocal last
            now = time.monotonic()
            self._seconds_per_output += 0.05 * ((now - last) / self._workers - self._seconds_per_output)
            last = now
            if job := batch.pop(output.index, None):
                job.settle(lambda future: future.set_result(output))

        try:
            if rows := join(jobs):
                self._generator.write(rows, give, lambda active: join(self._more(active)))
        except GrammarError as error:
            left = [job for job in batch.values() if not job.cancelled]
            if len(left) == 1:
                self._fail(left, error)
            else:  # one text is at fault, the others must not pay for it
                for job in left:
                    self._write([job])
        except Exception as error:
            _log.error("a batch of %d failed: %s", len(batch), type(error).__name__)
            self._fail(list(batch.values()), error)

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        for job in jobs:
            job.settle(lambda future: future.set_exception(error))
