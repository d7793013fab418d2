"""A training on several machines: which they are, what they tell each other, and how the loss of one is noticed.

accelerate's configuration file names the machines, and torch's launcher starts the processes on each. The launcher of
the first machine holds a store of keys that every process reaches. Through it the first machine hands out the job, all
say that they are alive, and a process says why it gives up.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError, MachineLostError, OdinError, error_of

SILENCE = 60.0
"""Seconds without a sign of life after which a machine counts as lost."""
_GRACE = 10.0
"""The same where a connection has broken as well."""
_EVERY = 1.0
"""Seconds between signs of life."""
_PATIENCE = 600.0
"""Seconds in which a machine has to begin; torch's launcher waits as long for all to be there."""
_CHUNK = 4 * 2**20
"""Bytes of one value; torch's store takes at most 8 MiB."""
_BROKEN = re.compile(r"gloo|nccl|connection|\bpeer\b|broken pipe|timed? ?out|store", re.IGNORECASE)
"""What PyTorch says when another process is gone; it has a type of its own only for some of these errors."""
_DONE = "done"
_RESUME = (
    "The checkpoints are kept. Go on with training.resume=true, on as many machines again or with other processes on "
    "those that are left."
)


@dataclass(frozen=True)
class Machines:
    """The machines of a training, as one of them sees them.

    Attributes:
        count: How many there are, at least two.
        rank: Number of this one; 0 is the first, which has the data and keeps the result.
        address: Name or IP address of the first.
        port: Its port.
        processes: Processes on all of them.
    """

    count: int
    rank: int
    address: str
    port: int
    processes: int

    @property
    def interface(self) -> str | None:
        """Name of the network interface that leads to the first machine; None where it is not known.

        gloo and NCCL would take the one that this machine's own name leads to, which may be the loopback.
        """
        import psutil

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((self.address, self.port))  # sends nothing
            except OSError:
                return None
            own = probe.getsockname()[0]
        named = (name for name, found in psutil.net_if_addrs().items() if own in {entry.address for entry in found})
        return None if own.startswith("127.") else next(named, None)


def read_config(file: Path) -> dict[str, Any]:
    """Return what a configuration file of accelerate says.

    Raises:
        BackendError: There is no such file, or it is none of accelerate's.
    """
    import yaml

    create = "Create it with: accelerate config --config_file FILE"
    where = f"training.accelerate_config={file}"
    if not file.is_file():
        raise BackendError("the file does not exist.", where=where, fix=create)
    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError, yaml.YAMLError):
        raise BackendError("this is no configuration of accelerate.", where=where, fix=create) from None


def _number(read: Mapping[str, Any], name: str, where: str) -> int:
    try:
        return int(read[name])
    except (TypeError, ValueError):
        raise BackendError(
            f"{name} is {read[name]!r}, expected a whole number.", where=where, fix="Write one, without quotes."
        ) from None


def machines_of(params: TrainingParams) -> Machines | None:
    """Return the machines that ``training.accelerate_config`` names; None where there is one.

    Raises:
        BackendError: The file is missing or broken, or lacks what several machines need.
    """
    if params.accelerate_config is None:
        return None
    where = f"training.accelerate_config={params.accelerate_config}"
    read = read_config(params.accelerate_config)
    if not read.get("num_machines") or _number(read, "num_machines", where) == 1:
        return None
    own = {"machine_rank": params.machine_rank, "num_processes": params.num_processes}
    read |= {name: value for name, value in own.items() if value is not None}
    names = ("num_machines", "machine_rank", "main_process_ip", "main_process_port", "num_processes")
    if lacking := [name for name in names if read.get(name) is None]:
        fix = "Add it, equal on every machine but for machine_rank, which counts them from 0."
        raise BackendError(f"several machines need {', '.join(lacking)}.", where=where, fix=fix)
    count, rank, port, processes = (_number(read, name, where) for name in names if name != "main_process_ip")
    if not 0 <= rank < count:
        fix = f"Number them from 0 to {count - 1}."
        raise BackendError(f"there is no machine {rank} among {count}.", where=where, fix=fix)
    if processes < count or processes % count:
        raise BackendError(
            f"{count} machines cannot share {processes} processes evenly.",
            where=where,
            fix=f"Set num_processes, which counts those of all machines, to a multiple of {count}.",
        )
    return Machines(count, rank, str(read["main_process_ip"]), port, processes)


class Link:
    """What connects a process with those of the other machines beside the training itself.

    Args:
        store: A store of keys that all processes reach; the first machine holds it.
        rank: Number of this process among all.
        machine: Number of its machine.
        machines: How many machines there are.
        speaks: Whether this process gives its machine's signs of life.
    """

    def __init__(self, store: Any, rank: int, machine: int, machines: int, *, speaks: bool) -> None:
        self._store, self._rank, self._speaks = store, rank, speaks
        self.machine, self.machines = machine, machines
        now = time.monotonic()
        self._heard = {number: (b"", now) for number in range(machines) if number != machine}
        self._over = threading.Event()

    @classmethod
    def open(cls) -> Link | None:
        """Return the link of a process that torch's launcher has started on several machines, else None."""
        machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        if machines == 1:
            return None
        from torch.distributed import PrefixStore, TCPStore

        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = PrefixStore("odin-slm", TCPStore(*place, is_master=False, timeout=timedelta(seconds=_GRACE)))
        rank, machine = int(os.environ["RANK"]), int(os.environ["GROUP_RANK"])
        return cls(store, rank, machine, machines, speaks=os.environ["LOCAL_RANK"] == "0")

    def watch(self, on_loss: Callable[[OdinError], None], silence: float = SILENCE) -> None:
        """Give signs of life from now on, and listen to those of the others.

        Args:
            on_loss: Called once, in a thread of its own, when a machine has given none for too long.
            silence: How long is too long, in seconds.
        """

        def talk() -> None:
            for count in itertools.count(1):
                with suppress(RuntimeError):  # the store is out of reach: the others seem silent, the first one first
                    self._exchange(count)
                if self._over.wait(_EVERY):
                    return

        def listen() -> None:  # apart, because an answer of the store may never come
            while not self._over.wait(_EVERY):
                if lost := self._lost(silence):
                    self._over.set()
                    on_loss(lost)

        for job in (talk, listen):
            threading.Thread(target=job, daemon=True).start()

    def hand_out(self, job: dict[str, Any]) -> None:
        """Give a job to the other machines."""
        packed = zlib.compress(json.dumps(job).encode(), 1)
        parts = [packed[begin : begin + _CHUNK] for begin in range(0, len(packed), _CHUNK)]
        for number, part in enumerate(parts):
            self._store.set(f"job/{number}", part)
        self._store.set("job", str(len(parts)))

    def receive(self) -> dict[str, Any]:
        """Return the job that the first machine hands out.

        Raises:
            OdinError: The first machine gives up, or is lost.
        """
        count = int(self._awaited("job"))
        packed = b"".join(self._store.get(f"job/{number}") for number in range(count))
        job: dict[str, Any] = json.loads(zlib.decompress(packed))
        return job

    def close(self) -> None:
        """Say that this machine has done its part; the others wait until the first one has saved the result.

        Raises:
            OdinError: The first machine could not save it, or is lost.
        """
        if self.machine:
            self._awaited("saved")
        self._over.set()
        if self._rank == 0:
            self._store.set("saved", "yes")
        if self._speaks:
            self._store.set(f"alive/{self.machine}", _DONE)

    def give_up(self, error: BaseException) -> None:
        """Tell the others why this process ends. They hear of the first one alone, which is the cause of the rest."""
        self._over.set()
        if not isinstance(error, OdinError):
            what = f"a process failed with {type(error).__name__}."
            error = BackendError(what, where="training", fix=f"See what machine {self.machine} printed.")
        told = error.to_dict() | {"what": f"{error.what} This is what machine {self.machine} says."}
        with suppress(RuntimeError):  # the first machine is gone, and its store with it
            self._store.compare_set("error", "", json.dumps({"rank": self._rank, **told}))

    def cause_of(self, error: BaseException) -> OdinError | None:
        """Return why a connection broke: what another process told, or the loss of a machine. None: it is neither."""
        if not (isinstance(error, RuntimeError) and _BROKEN.search(str(error))):
            return None
        end = time.monotonic() + 3 * _GRACE
        while time.monotonic() < end:
            if found := self._told() or self._lost(_GRACE):
                return found
            time.sleep(_EVERY)
        return None

    def _awaited(self, key: str) -> bytes:
        while True:
            with suppress(RuntimeError):
                if self._store.check([key]):
                    return bytes(self._store.get(key))
            if found := self._told() or self._lost(SILENCE):
                raise found
            time.sleep(_EVERY)

    def _exchange(self, count: int) -> None:
        """Give a sign of life, and note which other machines have given one since the last time."""
        if self._speaks:
            self._store.set(f"alive/{self.machine}", str(count))
        for number, (before, _) in self._heard.items():
            if self._store.check([f"alive/{number}"]) and (now := self._store.get(f"alive/{number}")) != before:
                self._heard[number] = (now, time.monotonic())

    def _told(self) -> OdinError | None:
        """Return why another process gives up."""
        with suppress(RuntimeError):
            if self._store.check(["error"]):
                told = json.loads(self._store.get("error"))
                return error_of(told) if told.pop("rank") != self._rank else None
        return None

    def _lost(self, silence: float) -> OdinError | None:
        """Return the loss of a machine that has given no sign of life for some seconds; one may take long to start."""
        now = time.monotonic()
        for number, (last, when) in self._heard.items():
            if last != _DONE.encode() and now - when > (silence if last else _PATIENCE):
                return self._loss_of(number)
        return None

    def _loss_of(self, number: int) -> OdinError:
        return MachineLostError(f"machine {number} is lost: it no longer answers.", where="training", fix=_RESUME)


def agree(facts: Mapping[str, str]) -> None:
    """Check that every process found the same.

    Args:
        facts: Name -> what this process found under it.

    Raises:
        BackendError: One found something else than the first.
    """
    from accelerate.utils import gather_object

    found: list[dict[str, str]] = gather_object([{**facts, "machine": os.environ.get("GROUP_RANK", "0")}])
    for other in found:
        if differing := [name for name in facts if other[name] != found[0][name]]:
            name = differing[0]
            raise BackendError(
                f"machine {other['machine']} has {other[name]}, and the first one {found[0][name]}.",
                where=name,
                fix="Make them equal: one training needs the same base, packages and arithmetic on every machine.",
            )
