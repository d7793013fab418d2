"""Machines of a test: network namespaces on a switch, itself a namespace, so that this system's own stays untouched.

They share the file system, as machines with a shared volume do, and nothing of the network.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil
import pytest

SWITCH = "10.77.0.254"
"""Address of what is no machine of the test's: there a server can stand that all of them reach."""


@dataclass(frozen=True)
class Network:
    """Machines at the addresses 10.77.0.1, 10.77.0.2, …, and a switch between them.

    Attributes:
        names: Namespaces of the machines; the last one is the switch's.
    """

    names: tuple[str, ...]

    def at(self, machine: int) -> list[str]:
        """Return what a command begins with to run on a machine; -1 is the switch."""
        return ["ip", "netns", "exec", self.names[machine]]

    def processes(self, machine: int) -> list[psutil.Process]:
        """Return what runs on a machine."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.names[machine]], capture_output=True, text=True, check=True
        )
        found = []
        for number in listed.stdout.split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(number)))
        return found

    def kill(self, machine: int) -> None:
        """End every process of a machine at once, also what one of them was about to start.

        Raises:
            TimeoutError: They do not end.
        """
        for _ in range(100):
            running = [one for one in self.processes(machine) if one.status() != psutil.STATUS_ZOMBIE]
            if not running:
                return
            for one in running:
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)
            time.sleep(0.1)
        raise TimeoutError(f"machine {machine} still runs {running}")


def address(machine: int) -> str:
    """Return the address of a machine, counted from 0."""
    return f"10.77.0.{machine + 1}"


@contextmanager
def machines_on_a_switch(machines: int) -> Iterator[Network]:
    """Make a network; what runs in it at the end is killed. The test is skipped where no network can be made."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the command ip")
    names = (*(f"odin-{os.getpid()}-{number}" for number in range(machines)), f"odin-{os.getpid()}-switch")
    *hosts, switch = names
    made = [["netns", "add", name] for name in names]
    made += [["-n", switch, "link", "add", "switch", "type", "bridge"]]
    for number, name in enumerate(hosts):
        plug = f"port{number}"
        made += [["-n", switch, "link", "add", plug, "type", "veth", "peer", "name", "cable", "netns", name]]
        made += [["-n", switch, "link", "set", plug, "master", "switch", "up"]]
        made += [["-n", name, "address", "add", f"{address(number)}/24", "dev", "cable"]]
        made += [["-n", name, "link", "set", device, "up"] for device in ("lo", "cable")]
    made += [["-n", switch, "address", "add", f"{SWITCH}/24", "dev", "switch"]]
    made += [["-n", switch, "link", "set", device, "up"] for device in ("lo", "switch")]
    found = Network(names)
    try:
        for arguments in made:
            done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"this system makes no network namespaces: {done.stderr.strip()}")
        yield found
    finally:
        for number, name in enumerate(names):
            with suppress(subprocess.CalledProcessError):  # it was not made
                found.kill(number)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
