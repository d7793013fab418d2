"""Decoding in processes of their own, one per core.

A small model spends half of a step in Python, and threads of one process take turns there. Here every batch has an
interpreter to itself, and the one that answers requests decodes nothing. A process runs a
:class:`~odin_slm.serving.threads.ThreadEngine` of one thread; this module deals prompts to the processes and brings
their outputs back.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from odin_slm.core.errors import OdinError, ServingError
from odin_slm.core.runtime_environment import prepare_process
from odin_slm.inference.generation import Generation, prompt_rows
from odin_slm.inference.reading import Question
from odin_slm.models.base_model import is_whole
from odin_slm.serving.engine import EngineMetrics, QueueFullError, UnavailableError, unfinished

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from odin_slm.config.parameters.base import Precision
    from odin_slm.models.base_model import BaseModel

_log = logging.getLogger(__name__)
_LOADING_SECONDS = 600.0
_ENDING_SECONDS = 10.0
_LARGEST = 256 * 2**20


def worth_processes(base: BaseModel, adapter: Path | None) -> bool:
    """Whether a model is small enough that Python, and not arithmetic, is what its threads wait for.

    Every process holds the weights, so that a large model is better shared by threads; so is one whose base is on the
    Hub, as its size is not known here.
    """
    if base.path is None and not (adapter and is_whole(adapter)):
        return False
    files = [file for folder in (base.path, adapter) if folder for file in folder.glob("*.safetensors")]
    return bool(files) and sum(file.stat().st_size for file in files) <= _LARGEST


@dataclass(frozen=True)
class _Plan:
    """What a process needs to know.

    Attributes:
        base: The base model.
        adapter: Folder of the adapter, or None.
        threads: Threads that it may use for one product of matrices.
        batch_size: Prompts decoded together, at most.
        batch_wait: Seconds that a batch that is not full waits for more.
        max_new_tokens: Budget of an output.
        log_level: Least severe level that it logs.
        precision: See :class:`odin_slm.inference.generation.Generator`.
    """

    base: BaseModel
    adapter: Path | None
    threads: int
    batch_size: int
    batch_wait: float
    max_new_tokens: int
    log_level: int
    precision: Precision = "fp32"


@dataclass(eq=False, slots=True)
class _Job:
    number: int
    question: Question
    canary: bool
    future: asyncio.Future[Generation]
    loop: asyncio.AbstractEventLoop
    entered: float = field(default_factory=time.monotonic)
    helper: _Helper | None = None

    def settle(self, outcome: Generation | BaseException) -> None:
        def now() -> None:
            if self.future.done():
                return
            if isinstance(outcome, BaseException):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)

        self.loop.call_soon_threadsafe(now)


class _Helper:
    """A process that decodes, as the engine sees it."""

    def __init__(self, plan: _Plan, number: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        self.connection, other = context.Pipe()
        self.jobs: dict[int, _Job] = {}
        self.process = context.Process(target=_decode_for, args=(other, plan), name=f"decode-{number}", daemon=True)
        self.process.start()
        other.close()
        self._sending = threading.Lock()

    def wait_until_loaded(self) -> None:
        """Return when it can decode.

        Raises:
            OdinError: It cannot.
        """
        try:
            answer = self.connection.recv() if self.connection.poll(_LOADING_SECONDS) else None
        except EOFError:
            answer = None
        if isinstance(answer, OdinError):
            raise answer
        if answer != "loaded":
            self.process.kill()
            raise ServingError(
                "a process that was to decode ended, or did not load its model.",
                where=self.process.name,
                fix="See the log; there may be too little memory: --workers 1, or --decoders threads.",
            )

    def send(self, message: Any) -> None:
        """Send a message; one to a process that has ended is lost, which its reader notices."""
        with self._sending:
            try:
                self.connection.send(message)
            except OSError:
                _log.debug("%s has ended", self.process.name)


class ProcessEngine:
    """Decodes in several processes.

    Args:
        base: The base model.
        adapter: Folder of a LoRA adapter that is merged into it; None for the base alone.
        tokenizer: The base's tokenizer.
        context: Tokens that prompt and output may have together; None where the model names no limit.
        metrics: Where queue and batches are counted.
        workers: Processes; 0: one per core.
        batch_size: Prompts that a process decodes together, at most.
        batch_wait: Seconds that a batch that is not full waits for more.
        queue_size: Prompts that may wait.
        max_new_tokens: Budget of an output.
        precision: See :class:`odin_slm.inference.generation.Generator`.

    Raises:
        AdapterError: The adapter does not fit the base.
        BaseModelError: The base cannot be loaded.
        ServingError: A process does not start.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Path | None,
        tokenizer: Any,
        context: int | None,
        metrics: EngineMetrics,
        *,
        workers: int = 0,
        batch_size: int = 32,
        batch_wait: float = 0.004,
        queue_size: int = 64,
        max_new_tokens: int = 256,
        precision: Precision = "fp32",
    ) -> None:
        cores = available_cores()
        workers = workers or cores
        self._plan = _Plan(
            base,
            adapter,
            max(1, cores // workers),
            batch_size,
            batch_wait,
            max_new_tokens,
            logging.getLogger().getEffectiveLevel(),
            precision,
        )
        self._tokenizer, self._context, self._metrics = tokenizer, context, metrics
        self._queue_size = queue_size
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_per_output = 0.2
        self._last = time.monotonic()
        self._numbers = 0
        self._helpers = [_Helper(self._plan, number) for number in range(workers)]
        self._starting: set[_Helper] = set()
        try:
            for helper in self._helpers:
                helper.wait_until_loaded()
        except OdinError:
            self._kill()
            raise
        atexit.register(self._kill)  # it runs before multiprocessing would wait for them
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to take prompts."""
        self._metrics.decoders.set(len(self._helpers))
        for helper in self._helpers:
            self._listen(helper)

    async def write(self, questions: Sequence[Question], *, timeout: float, canary: bool = False) -> list[Generation]:
        """See :meth:`odin_slm.serving.engine.Engine.write`."""
        prompts = [question.prompt for question in questions]
        prompt_rows(self._tokenizer, self._context, prompts, None, self._plan.max_new_tokens)  # too long is known now
        jobs = self._accept(questions, canary)
        try:
            async with asyncio.timeout(timeout):
                return list(await asyncio.gather(*(job.future for job in jobs)))
        finally:
            self._forget(jobs)

    async def stop(self) -> None:
        """See :meth:`odin_slm.serving.engine.Engine.stop`."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._queue and not any(helper.jobs for helper in self._helpers))
            helpers = list(self._helpers)
        for helper in helpers:
            helper.send(None)
        for helper in helpers:
            helper.process.join(_ENDING_SECONDS)
        self._kill()
        for reader in self._readers:
            reader.join(_ENDING_SECONDS)
        atexit.unregister(self._kill)

    def _kill(self) -> None:
        every = [*self._helpers, *self._starting]
        for helper in every:
            helper.process.kill()
        for helper in every:
            helper.process.join(_ENDING_SECONDS)

    def _accept(self, questions: Sequence[Question], canary: bool) -> list[_Job]:
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._closing:
                raise UnavailableError("the service is being stopped")
            if not self._helpers:
                raise UnavailableError("the processes that decode are being started again")
            if not canary and len(self._queue) + len(questions) > self._queue_size + self._free():
                raise QueueFullError(max(1, math.ceil(len(self._queue) * self._seconds_per_output)))
            jobs = []
            for question in questions:
                self._numbers += 1
                jobs.append(_Job(self._numbers, question, canary, loop.create_future(), loop))
            if canary:
                for job in jobs:  # before everything that waits, and in a batch that may be full
                    self._give(job, min(self._helpers, key=lambda helper: len(helper.jobs)))
            else:
                self._queue.extend(jobs)
                self._deal()
        return jobs

    def _free(self) -> int:
        return sum(max(0, self._plan.batch_size - len(helper.jobs)) for helper in self._helpers)

    def _deal(self) -> None:
        """Give what waits to the process that has the least to do, as long as one has room."""
        while self._queue and self._helpers:
            least = min(self._helpers, key=lambda helper: len(helper.jobs))
            if len(least.jobs) >= self._plan.batch_size:
                break
            if not any(helper.jobs for helper in self._helpers):
                self._last = time.monotonic()  # nothing was being written: the time since then says nothing
            job = self._queue.popleft()
            self._metrics.queue_seconds.observe(time.monotonic() - job.entered)
            self._give(job, least)
        self._metrics.queue.set(len(self._queue))

    def _give(self, job: _Job, helper: _Helper) -> None:
        job.helper = helper
        helper.jobs[job.number] = job
        helper.send((job.number, job.question, job.canary))

    def _forget(self, jobs: list[_Job]) -> None:
        """Let go of what did not end: what waits leaves the queue, what is being written leaves its batch."""
        left = unfinished(jobs)
        if not left:
            return
        self._metrics.cancelled.inc(len(left))
        numbers = {job.number for job in left}
        with self._changed:
            self._queue = deque(job for job in self._queue if job.number not in numbers)
            for job in left:
                if job.helper is not None and job.number in job.helper.jobs:
                    job.helper.send(job.number)  # it answers, and its place is free then
            self._metrics.queue.set(len(self._queue))
            self._changed.notify_all()

    def _listen(self, helper: _Helper) -> None:
        reader = threading.Thread(target=self._read, args=(helper,), name=f"read-{helper.process.name}", daemon=True)
        self._readers.append(reader)
        reader.start()

    def _read(self, helper: _Helper) -> None:
        """Bring back what a process writes, until it ends."""
        while True:
            try:
                number, outcome = helper.connection.recv()
            except (EOFError, OSError):
                break
            if number is None:
                self._metrics.batch.observe(outcome)
                continue
            with self._changed:
                job = helper.jobs.pop(number)
                now = time.monotonic()
                if isinstance(outcome, Generation):
                    self._seconds_per_output += 0.05 * (now - self._last - self._seconds_per_output)
                self._last = now
                self._deal()
                self._changed.notify_all()
            if outcome is not None:
                job.settle(outcome)
        self._replace(helper)

    def _replace(self, helper: _Helper) -> None:
        """Start another process in the place of one that has ended; what it was writing is answered with 503."""
        helper.process.join(_ENDING_SECONDS)
        with self._changed:
            lost = list(helper.jobs.values())
            helper.jobs.clear()
            self._helpers.remove(helper)
            self._metrics.decoders.set(len(self._helpers))
            needed = bool(self._queue) or not self._closing
            self._changed.notify_all()
        for job in lost:
            job.settle(UnavailableError("the process that was decoding it has ended"))
        if not needed and not lost:
            return
        _log.error("%s ended with %s; %d prompts lost", helper.process.name, helper.process.exitcode, len(lost))
        delay = 1.0
        while not (new := self._start_again(helper)):
            with self._changed:
                waiting = list(self._queue) if not self._helpers else []
                self._queue = deque(job for job in self._queue if job not in waiting)
                self._changed.notify_all()
            for job in waiting:
                job.settle(UnavailableError("no process is left to decode it"))
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, delay):
                    return
            delay = min(2 * delay, 60.0)
        with self._changed:
            self._starting.discard(new)
            if self._closing and not self._queue:
                new.process.kill()
                return
            self._helpers.append(new)
            self._metrics.decoders.set(len(self._helpers))
            self._listen(new)
            self._deal()
            self._changed.notify_all()

    def _start_again(self, helper: _Helper) -> _Helper | None:
        """Start a process like one that has ended; None if that fails."""
        try:
            with self._changed:  # whoever ends the engine now knows of it, or it is not started
                if self._closing and not self._queue:
                    return None
                new = _Helper(self._plan, int(helper.process.name.rpartition("-")[2]))
                self._starting.add(new)
        except OSError as error:
            _log.error("%s was not started again: %s", helper.process.name, error)
            return None
        try:
            new.wait_until_loaded()
        except (OdinError, OSError) as error:
            _log.error("%s was not started again: %s", helper.process.name, error)
            with self._changed:
                self._starting.discard(new)
            return None
        return new


def available_cores() -> int:
    """Return how many cores this process may use: ``OMP_NUM_THREADS``, as for torch, or those that it may run on."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named):
        return int(named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_for(connection: Connection, plan: _Plan) -> None:
    """Decode what the engine sends, until it sends None or is gone; the main function of a process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # both reach the whole group; the engine says when to end
    prepare_process()
    from odin_slm.serving.observability import set_up_logs

    set_up_logs(logging.getLevelName(plan.log_level).lower())
    import torch

    from odin_slm.inference.generation import Generator

    torch.set_num_threads(plan.threads)
    try:
        generator = Generator(plan.base, plan.adapter, plan.precision)
    except OdinError as error:
        connection.send(error)
        return
    connection.send("loaded")
    asyncio.run(_decode(connection, plan, generator))
    logging.shutdown()
    os._exit(0)  # taking the libraries down takes seconds and changes nothing


async def _decode(connection: Connection, plan: _Plan, generator: Any) -> None:
    from odin_slm.serving.threads import ThreadEngine

    loop = asyncio.get_running_loop()
    under_way: dict[int, asyncio.Task[list[Generation]]] = {}
    speaking = threading.Lock()

    def say(number: int | None, what: Any) -> None:
        with speaking:
            connection.send((number, what))

    engine = ThreadEngine(
        generator,
        _Counts(partial(say, None)),
        workers=1,
        batch_size=plan.batch_size,
        batch_wait=plan.batch_wait,
        queue_size=10**9,  # the engine that deals prompts out has the queue
        max_new_tokens=plan.max_new_tokens,
    )
    engine.start()

    def answer(number: int, writing: asyncio.Task[list[Generation]]) -> None:
        del under_way[number]
        if writing.cancelled():
            outcome: Any = None  # nobody waits for it: its place is what is given back
        elif (error := writing.exception()) is not None:
            outcome = error if isinstance(error, OdinError) else RuntimeError(type(error).__name__)
        else:
            (outcome,) = writing.result()
        say(number, outcome)

    def take(message: Any) -> None:
        if isinstance(message, int):
            if message in under_way:
                under_way[message].cancel()
            return
        number, question, canary = message
        under_way[number] = loop.create_task(engine.write([question], timeout=math.inf, canary=canary))
        under_way[number].add_done_callback(partial(answer, number))  # called even if it is cancelled before it runs

    ended = loop.create_future()

    def listen() -> None:
        try:
            while (message := connection.recv()) is not None:
                loop.call_soon_threadsafe(take, message)
        except (EOFError, OSError):
            os._exit(1)  # nobody is left to decode for
        loop.call_soon_threadsafe(ended.set_result, None)

    threading.Thread(target=listen, daemon=True).start()
    await ended
    await engine.stop()


class _Counts:
    """What a process tells of its batches; queue and cancellations are counted where they happen."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.queue = self.queue_seconds = self.decoders = self.cancelled = _Nothing()
        self.batch = SimpleNamespace(observe=tell)


class _Nothing:
    def set(self, _: float) -> None: ...
    def inc(self, _: float) -> None: ...
    def observe(self, _: float) -> None: ...
