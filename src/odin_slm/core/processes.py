"""Work on many items, shared among processes: what comes out is what one process would make, in the same order."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

from odin_slm.core.errors import DeviceMemoryError

Item = TypeVar("Item")
Made = TypeVar("Made")

AT_ONCE = 1024
"""Items that travel together."""
_WORTH = 10_000
"""Items that are worth a process, which takes a second to start."""
_MOST = 8
"""One process reads what goes to the others, and keeps what they make; it serves no more."""
_SERVE = f"from {__name__} import serve; serve()"


def mapped(prepare: Callable[[], Callable[[list[Item]], Made]], items: Iterable[Item], count: int) -> Iterator[Made]:
    """Yield what is made of items, :data:`AT_ONCE` at a time, in their order.

    Args:
        prepare: Makes, once in each process, the function that is given a list of items. It is pickled, as are items
            and results; where there is one process, nothing is. What another process could not import, such as a
            task that a notebook defines, is used in this one alone.
        items: Read as results are asked for, a few lists ahead.
        count: How many items there are, or about as many.

    Raises:
        DeviceMemoryError: A process was ended from outside.
    """
    left = iter(items)
    lists = iter(lambda: list(islice(left, AT_ONCE)), [])
    processes = min(os.cpu_count() or 1, _MOST, count // _WORTH)
    if processes < 2 or not _portable(prepare):
        yield from map(prepare(), lists)
        return
    free: SimpleQueue[_Process] = SimpleQueue()

    def made(some: list[Item]) -> Made:
        process = free.get()
        try:
            return process.ask(some)
        finally:
            free.put(process)

    waiting: deque[Future[Made]] = deque()
    with ExitStack() as stack:
        for _ in range(processes):
            free.put(process := _Process(prepare))
            stack.callback(process.close)
        threads = stack.enter_context(ThreadPoolExecutor(processes))
        stack.callback(lambda: [future.cancel() for future in waiting])
        for some in lists:
            waiting.append(threads.submit(made, some))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _portable(prepare: Callable[[], Any]) -> bool:
    """Tell whether another process can import what a function is made of: not what a notebook has defined."""
    try:
        return b"__main__" not in pickle.dumps(prepare)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


class _Process:
    """Another Python that answers list by list.

    It is started afresh: a fork would copy the locks of threads, and Rust's pools without their threads, and what
    ``multiprocessing`` spawns imports the program that runs here once more.
    """

    def __init__(self, prepare: Callable[[], Any]) -> None:
        path = os.pathsep.join(place for place in sys.path if place)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "RAYON_NUM_THREADS": "1"},
        )
        self._begin: list[Any] = [prepare]

    def ask(self, items: list[Any]) -> Any:
        """Return what the process makes of a list."""
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        try:
            for value in [*self._begin, items]:
                pickle.dump(value, asked, pickle.HIGHEST_PROTOCOL)
            self._begin = []
            asked.flush()
            made, error = pickle.load(answers)
        except (EOFError, BrokenPipeError):
            raise DeviceMemoryError(
                f"a process that shares the work has ended with status {self._process.wait()}.",
                where="data preparation",
                fix="Most often there is no memory left: free some, and run it again.",
            ) from None
        if error is not None:
            raise error
        return made

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._process.communicate()


def serve() -> None:
    """Answer the process that has started this one, until it asks no more."""
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    prepare, work = pickle.load(asked), None
    while True:
        try:
            items = pickle.load(asked)
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            work = work or prepare()
            answer = work(items), None
        except Exception as error:
            answer = None, error
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
