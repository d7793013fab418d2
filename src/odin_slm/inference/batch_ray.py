"""Shards read by Ray: a worker with the model for every GPU or core of a cluster, whose machines may come and go.

The process that runs the job reads the documents and writes the shards; a worker (an actor of Ray,
https://docs.ray.io/en/latest/ray-core/actors.html) is handed texts and hands back what it read. So only that process
needs the documents' storage, and what is lost with a worker, or with its whole machine, is handed to another one.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from odin_slm.core.document import GivenDocument
from odin_slm.core.errors import BackendError, OdinError
from odin_slm.inference.batch import Job, OnProgress, Read, Shard
from odin_slm.inference.reading import Reader
from odin_slm.models.base_model import model_digest

logger = logging.getLogger(__name__)

_AHEAD = 2
"""Shards that a worker holds: the one that it reads, and the one that it then goes on with at once."""
_LOSSES = 4
"""Workers that one shard may cost: a text that takes all the memory would else end every machine, one after another."""
_LOADING = "the loading of the model"
_LOOK_S = 2.0
"""Seconds between looks at what machines the cluster has."""
_DECISIVE = ("odin-slm", "torch", "transformers", "llguidance")
"""Packages whose versions decide what is read; they are to be the same everywhere."""


def extract_with_ray(
    job: Job, read: Read, total: int, finished: Collection[str], on_progress: OnProgress
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Read the shards on all cores or GPUs of a Ray cluster; see :func:`odin_slm.inference.batch.extract_here`.

    They come as they end. The cluster is that of ``RAY_ADDRESS``, else one on this machine that ends with the job.

    Raises:
        BackendError: Ray is not installed, its cluster cannot be reached, or its workers fail.
        OdinError: What a worker says of the model or the texts.
    """
    with _cluster() as ray:
        pool = _Pool(ray, job, most=max(-(-total // job.params.shard_size), 1))
        done = 0
        try:
            for shard, result in pool.read(job.shards(read), finished):
                done += len(shard.documents)
                yield shard.name, result
                on_progress(done, total)
        finally:
            pool.close()


@dataclass(eq=False)
class _Worker:
    """A process of Ray: its actor, the promise of its model until that is loaded, and what it holds, oldest first."""

    actor: Any
    loading: Any
    shards: dict[Any, Shard] = field(default_factory=dict)


class _Pool:
    """The workers of a job, and the shards that wait for one.

    Args:
        ray: The package, connected to a cluster.
        job: The job.
        most: How many workers there is work for.
    """

    def __init__(self, ray: Any, job: Job, most: int) -> None:
        self._ray = ray
        self._job = job
        self._most = most
        self._workers: list[_Worker] = []
        self._waiting: deque[Shard] = deque()
        self._losses: Counter[str] = Counter()
        self._kind = ""
        self._told = False
        self._looked = -_LOOK_S

    def read(self, shards: Iterator[Shard], finished: Collection[str]) -> Iterator[tuple[Shard, dict[str, Any] | None]]:
        """Yield every shard with what :meth:`Job.extract` returns, or with None where it is there already."""
        while True:
            while not self._waiting and (shard := next(shards, None)):
                if shard.name in finished:
                    yield shard, None
                else:
                    self._waiting.append(shard)
            if not self._waiting and not any(worker.shards for worker in self._workers):
                return
            self._grow()
            ready = [worker for worker in self._workers if not worker.loading and len(worker.shards) < _AHEAD]
            if self._waiting and ready:
                worker, shard = min(ready, key=lambda one: len(one.shards)), self._waiting.popleft()
                worker.shards[worker.actor.extract.remote(shard.documents)] = shard
            else:
                yield from self._ended()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._end(worker)

    def _grow(self) -> None:
        """Start a worker for each GPU, or core where there is none, that the cluster has now and had not before."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        resources = self._ray.cluster_resources()
        self._kind = self._kind or next((kind for kind in ("GPU", "CPU") if resources.get(kind)), "")
        room = self._job.params.workers or int(resources.get(self._kind, 0))
        if not room and not self._workers and not self._told:
            logger.warning("The cluster has neither a GPU nor a core to work with; waiting for a machine that joins.")
        self._told = not room
        for _ in range(min(room, self._most) - len(self._workers)):
            needs = {"num_cpus": 0, "num_gpus": 1} if self._kind == "GPU" else {"num_cpus": 1}
            actor = self._ray.remote(_Reading).options(**needs).remote(self._job, _versions(), _node(self._ray))
            self._workers.append(_Worker(actor, actor.load.remote()))

    def _ended(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        """Wait a little for the next shard that ends, or model that is loaded."""
        owners = {
            ref: worker for worker in self._workers for ref in ([worker.loading] if worker.loading else worker.shards)
        }
        if not owners:
            time.sleep(_LOOK_S)
            return
        for ref in self._ray.wait(list(owners), timeout=_LOOK_S)[0]:
            worker = owners[ref]
            try:
                given = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError:
                raise  # an error of the code, which would be raised again elsewhere
            except self._ray.exceptions.RayError as error:
                self._lose(worker, error)
                continue
            if "fault" in given:
                raise _fault(*given["fault"])
            if ref == worker.loading:
                worker.loading = None
                logger.info("A worker on %s has loaded the model.", given["result"])
                del self._losses[_LOADING]
            else:
                yield worker.shards.pop(ref), given["result"]

    def _lose(self, worker: _Worker, error: Exception) -> None:
        """Take back what a worker held.

        Raises:
            BackendError: What it was reading, or the loading of the model, has cost too many workers.
        """
        self._workers.remove(worker)
        self._end(worker)
        shards = list(worker.shards.values())
        reason = str(error).strip().split("\n")[0]
        at = shards[0].name if shards else _LOADING
        self._losses[at] += 1
        if self._losses[at] >= _LOSSES * (1 if shards else len(self._workers) + 1):
            held = f" (documents {shards[0].documents[0].id} to {shards[0].documents[-1].id})" if shards else ""
            raise BackendError(
                f"{at}{held} has cost {self._losses[at]} workers, at last by: {reason}",
                where="extraction.engine=ray",
                fix="Look into Ray's logs. Where memory ran out, lower extraction.workers or extraction.batch_size, or "
                "take out the longest of these documents, and run again: shards that are written are kept.",
            )
        logger.warning("A worker was lost over %s, which another one does again: %s", at, reason)
        self._waiting.extendleft(reversed(shards))

    def _end(self, worker: _Worker) -> None:
        with suppress(Exception):  # it, or its machine, may be gone
            self._ray.kill(worker.actor)


class _Reading:
    """What runs in a worker: the model, and reading with it.

    Args:
        job: The job.
        versions: What :func:`_versions` returns where the job runs.
        home: What :func:`_node` returns there.
    """

    def __init__(self, job: Job, versions: dict[str, str], home: str) -> None:
        self._job = job
        self._versions = versions
        self._home = home

    def load(self) -> dict[str, Any]:
        """Load the model, once it is sure that this machine has what the job's has; return the machine's name."""
        return _said(self._load)

    def extract(self, documents: list[GivenDocument]) -> dict[str, Any]:
        """Read a shard; see :meth:`Job.extract`."""
        return _said(lambda: self._job.extract(self._reader, documents))

    def _load(self) -> str:
        import ray
        import torch

        if (node := _node(ray)) != self._home:
            _check_machine(self._job, self._versions, node)
        torch.set_num_threads(1)  # there is a worker for each core
        self._reader: Reader = self._job.reader()
        return node


def _check_machine(job: Job, versions: dict[str, str], node: str) -> None:
    """Compare a machine with the one that the job runs on.

    Raises:
        BackendError: It has other packages, or no or another model, and would read something else.
    """
    mine = _versions()
    if mine != versions:
        raise BackendError(
            f"the machine has {_listed(mine)}, and the one that runs the job {_listed(versions)}.",
            where=f"machine {node}",
            fix="Install the same versions on all machines of the cluster; a container image is the surest way.",
        )
    try:
        found = model_digest(job.model.base, job.model.adapter)
    except OSError as error:
        found = f"none ({error})"
    if found != job.model.digest:
        raise BackendError(
            f"the model is {found}, expected {job.model.digest}.",
            where=f"machine {node}, model {job.model.source}",
            fix="Put base and adapter at the same paths on all machines of the cluster, as on a shared volume.",
        )


def _versions() -> dict[str, str]:
    """Return the versions of the packages that decide what is read."""
    found = {}
    for name in _DECISIVE:
        with suppress(importlib.metadata.PackageNotFoundError):  # a checkout on the path is not installed
            found[name] = importlib.metadata.version(name)
    return found


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _node(ray: Any) -> str:
    """Return the address of this machine in the cluster, and what Ray calls it."""
    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


def _said(work: Callable[[], Any]) -> dict[str, Any]:
    """Return what a function returns, or says; Ray would wrap the error, and with it what to do."""
    try:
        return {"result": work()}
    except OdinError as error:
        return {"fault": [type(error).__name__, error.what, error.where, error.fix]}


def _fault(kind: str, what: str, where: str, fix: str) -> OdinError:
    from odin_slm.core import errors

    found: OdinError = getattr(errors, kind)(what, where=where, fix=fix)
    return found


@contextmanager
def _cluster() -> Iterator[Any]:
    """Yield ``ray`` with its cluster: the one that is there, or one that ends with the job.

    Raises:
        BackendError: Ray is not installed, does not start, or fails on the way.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import: nobody is told that Ray is used
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise BackendError(
            f"Ray cannot be imported ({error}).",
            where="extraction.engine",
            fix='Set extraction.engine=local, or pip install -c requirements/constraints.txt -e ".[ray]"',
        ) from None
    fix = "Run again: shards that are written are kept. Check the cluster of RAY_ADDRESS and the memory for "
    fix += "extraction.workers models, or set extraction.engine=local."
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises its own, ConnectionError, ValueError and plain Exception
            ray.shutdown()
            raise BackendError(f"Ray does not start ({error}).", where="extraction.engine", fix=fix) from None
    try:
        yield ray
    except RayError as error:
        reason = str(error).strip().split("\n")[-1]
        raise BackendError(
            f"Ray fails ({type(error).__name__}: {reason}).", where="extraction.engine", fix=fix
        ) from None
    finally:
        if mine:
            ray.shutdown()
