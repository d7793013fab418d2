"""A job on Ray's machines, each a network namespace: the files of a local job, whatever happens on the way.

The driver is killed; its second run loses a machine and another one joins, on a shared folder and on an S3 server.
Ray gives each machine's agent 15 seconds to come up, which no setting changes, so these tests run with nothing beside
them: ``make test-cluster``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from conftest import ROOT
from networks import SWITCH, Network, address, machines_on_a_switch
from s3_server import s3_server

pytestmark = pytest.mark.alone

HEAD = f"{address(0)}:6379"
COUNT = 24
TEXTS = [f"Patient {n} took enalapril 😀 and then had a cough, fever and rash." for n in range(COUNT)]
SETTINGS = {"shard_size": 1, "max_new_tokens": 256, "window_tokens": 96}


@dataclass
class Cluster:
    """Machines of which three run Ray, and one is to join later.

    Attributes:
        network: The machines; the first one is the head.
        folder: Holds the token, and a folder of Ray's for each machine.
        up: Machines that run Ray.
    """

    network: Network
    folder: Path
    up: set[int] = field(default_factory=set)

    def environment(self, machine: int) -> dict[str, str]:
        """Return what a machine's user has set, as docs/how-to/read-many-documents.md says it."""
        given = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
        if given.pop("PYTHONDONTWRITEBYTECODE", None):  # dozens of processes would each compile what they import
            given["PYTHONPYCACHEPREFIX"] = str(self.folder / "bytecode")
        given |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        given |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(self.folder / str(machine))}
        return given | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "400"}

    def start(self, machine: int) -> None:
        """Start Ray on a machine, with one core; on a busy system it gives up after 30 s, and is started again.

        It does not wait for what helps it where the ports of that are given.
        """
        command = [*self.network.at(machine), sys.executable, "-m", "ray.scripts.scripts", "start"]
        command += ["--head", "--no-monitor", "--include-dashboard=false"] if not machine else [f"--address={HEAD}"]
        command += [f"--node-ip-address={address(machine)}", f"--temp-dir={self.folder / str(machine)}"]
        command += ["--num-cpus=1", f"--object-store-memory={80 * 2**20}", "--include-log-monitor=false"]
        ports = ("dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent", "metrics-export")
        command += [f"--{name}-port={7001 + number}" for number, name in enumerate(ports)]
        log = self.folder / f"{machine}.log"
        for _ in range(4):
            with log.open("wb") as stream:
                done = subprocess.run(
                    command,
                    env=self.environment(machine),
                    stdin=subprocess.DEVNULL,
                    stdout=stream,  # no pipe: what it leaves running would keep it open
                    stderr=subprocess.STDOUT,
                    timeout=200,
                    check=False,
                )
            if not done.returncode:
                self.up.add(machine)
                return
            self.network.kill(machine)
        raise AssertionError(log.read_text())

    def lose(self, machine: int) -> None:
        """End everything on a machine at once."""
        self.network.kill(machine)
        self.up.remove(machine)

    def signal_readers(self, machine: int, number: int) -> None:
        """Send a signal to the processes of a machine that read documents."""
        readers = [one for one in self.network.processes(machine) if one.name().startswith("ray::_Reading")]
        assert readers, f"machine {machine} reads nothing"
        for one in readers:
            one.send_signal(number)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason='Ray is not installed: pip install -e ".[ray]"')
    folder = Path(tempfile.mkdtemp(prefix="odin"))  # a short name: Ray makes sockets below it
    try:
        with machines_on_a_switch(4) as network:
            (folder / "token").write_text(os.urandom(32).hex())
            found = Cluster(network, folder)
            for machine in range(3):
                found.start(machine)
            yield found
    finally:
        shutil.rmtree(folder)


@dataclass
class Driver:
    """The process that a user has started on the head, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def readers(self) -> set[int]:
        """Return the machines that are ready to read, or were."""
        return {int(found) - 1 for found in re.findall(r"A worker on 10\.77\.0\.(\d+) .*has loaded", self.said())}

    def wait_for(self, what: Callable[[], Any]) -> None:
        """Wait until something is so, which it must be before the job ends; the test's own limit bounds it."""
        while not what():
            assert self.process.poll() is None, "the job has ended"
            time.sleep(0.05)


@contextmanager
def driver(cluster: Cluster, project: Path, places: dict[str, str], variables: dict[str, str]) -> Iterator[Driver]:
    """Run the job on the head as a user does."""
    params = {**places, "extraction.engine": "ray", **{f"extraction.{key}": value for key, value in SETTINGS.items()}}
    command = [*cluster.network.at(0), sys.executable, "-m", "kedro", "run", "--env", "test", "--pipelines"]
    command += ["extraction", "--params", ",".join(f"{key}={value}" for key, value in params.items())]
    log = project / "driver.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=project,
            env={**cluster.environment(0), **variables, "RAY_ADDRESS": HEAD, "ODIN_SLM_HOME": str(project)},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Driver(process, log)
    finally:
        process.kill()
        process.wait()
        print(log.read_text(errors="replace"))  # shown where the test fails


@pytest.fixture(params=["folder", "s3"])
def storage(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path
) -> Iterator[tuple[Path, str, dict[str, str]]]:
    """Storage that the driver reads and writes: where it lies on this system, its address, its variables."""
    shared = tmp_path / "shared"
    (shared / "bucket").mkdir(parents=True)
    if request.param == "folder":
        yield shared / "bucket", str(shared / "bucket"), {}
        return
    with s3_server(shared, f"{SWITCH}:9000", cluster.network.at(-1)) as variables:
        yield shared / "bucket", "s3://bucket", variables


@pytest.mark.timeout(1500)
def test_a_job_ends_in_the_files_of_a_local_one_whatever_is_killed(
    cluster: Cluster,
    storage: tuple[Path, str, dict[str, str]],
    run: Callable[..., Any],
    project: Path,
) -> None:
    folder, place, variables = storage
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__"))  # the command asks
    (folder / "notes").mkdir()
    lines = [json.dumps({"id": f"n{n}", "text": text}) for n, text in enumerate(TEXTS)]
    (folder / "notes/a.jsonl").write_text("\n".join(lines[:10]))
    (folder / "notes/b.jsonl").write_text("\n".join(lines[10:]))
    model = {"model": "data/06_models/odin-nano"}
    local = {"documents": str(folder / "notes"), "extractions": str(project / "whole"), **model}
    run("extraction", params={**local, "extraction": SETTINGS})
    places = {"documents": f"{place}/notes", "extractions": f"{place}/out", **model}

    def written() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (folder / "out").glob("*.parquet")}

    with driver(cluster, project, places, variables) as first:
        first.wait_for(lambda: len(written()) >= 2)
        os.kill(first.process.pid, signal.SIGKILL)
        assert first.process.wait(30) == -signal.SIGKILL
    before = written()
    assert 2 <= len(before) <= COUNT / 2
    assert not (folder / "out/manifest.json").exists()

    lost = min(cluster.up - {0})
    (late,) = set(range(4)) - cluster.up
    with driver(cluster, project, places, variables) as second:
        held: set[int] = set()
        while held != cluster.up:  # each stops in the middle of a shard, so that something is left for who comes late
            second.wait_for(lambda: second.readers() - held)
            for machine in second.readers() - held:
                cluster.signal_readers(machine, signal.SIGSTOP)
                held.add(machine)
        cluster.lose(lost)
        cluster.start(late)
        second.wait_for(lambda: late in second.readers())
        done = len(written())
        second.wait_for(lambda: len(written()) > done)
        for machine in held - {lost}:
            cluster.signal_readers(machine, signal.SIGCONT)
        assert second.process.wait() == 0
    assert re.search(r"A worker was lost over shard-\d+", second.said())

    found = {file.name: file.read_bytes() for file in (folder / "out").iterdir()}
    assert found == {file.name: file.read_bytes() for file in (project / "whole").iterdir()}
    assert {name: written()[name] for name in before} == before, "what was there is not written again"
    ids = Counter(pyarrow.parquet.read_table(folder / "out" / name)["id"][0].as_py() for name in written())
    assert ids == Counter(f"n{n}" for n in range(COUNT))
