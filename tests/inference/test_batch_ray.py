"""The batch pipeline on a Ray cluster of several nodes: the same files as without, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from kedro.io import DatasetError

from conftest import ROOT
from odin_slm.datasets.documents import ExtractionShardsDataset
from odin_slm.inference.batch_ray import _check_machine, _versions
from odin_slm.inference.served_model import resolve_model

TEXTS = [f"Patient {n} took enalapril 😀 and then had a cough, fever and rash." for n in range(7)]
STORE = 80 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster that the jobs of this file share: a head without cores to work with, and a node with two."""
    ray = pytest.importorskip("ray", reason='Ray is not installed: pip install -e ".[ray]"')
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.delenv("RAY_ADDRESS", raising=False)
        for left in (2, 1, 0):
            started = Cluster()
            try:
                started.add_node(num_cpus=0, object_store_memory=STORE, include_dashboard=False)
                started.add_node(num_cpus=2, object_store_memory=STORE)
                ray.init(address=started.address, log_to_driver=False)
                break
            except Exception:  # on a busy machine it gives up after 30 s
                ray.shutdown()
                started.shutdown()
                if not left:
                    raise
        yield started
        ray.shutdown()
        started.shutdown()


@pytest.fixture
def extract(run: Callable[..., Any], project: Path, tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """Run a job over documents, two of them faulty, in shards of three; return its files."""
    lines = [json.dumps({"id": f"n{n}", "text": text}) for n, text in enumerate(TEXTS)]
    lines[2:2] = ['{"id": "half", "text": "half \\ud800"}', "nonsense"]
    documents = tmp_path / "notes.jsonl"
    documents.write_text("\n".join(lines))

    def job(target: str, model: str = "data/06_models/odin-nano", **extraction: Any) -> dict[str, bytes]:
        settings = {"shard_size": 3, "max_new_tokens": 32, "window_tokens": 96, "batch_size": 2, **extraction}
        places = {"documents": str(documents), "extractions": str(project / target), "model": model}
        run("extraction", params={**places, "extraction": settings})
        return {file.name: file.read_bytes() for file in (project / target).iterdir()}

    return job


@pytest.fixture
def on_write(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Do something before the shard of a number, counted from 1, is written; return the numbers as they come."""

    def hook(**what: Callable[[], None]) -> list[int]:
        original = ExtractionShardsDataset._write
        written: list[int] = []

        def write(dataset: ExtractionShardsDataset, data: dict[str, Any]) -> None:
            written.append(len(written) + 1)
            what.get(f"at_{written[-1]}", lambda: None)()
            original(dataset, data)

        monkeypatch.setattr(ExtractionShardsDataset, "_write", write)
        return written

    return hook


@pytest.fixture
def join() -> Iterator[Callable[[str], None]]:
    """Start a node of one core, which joins the cluster at an address when it is ready."""
    started: list[subprocess.Popen[bytes]] = []

    def start(address: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--block"]
        command += ["--num-cpus=1", f"--object-store-memory={STORE}"]
        # on a busy machine a node may find the head too slow and give up, which an operator would start again
        command = ["bash", "-c", 'until "$@"; do sleep 1; done', "join", *command]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True))

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("cluster")
def test_a_job_with_ray_ends_in_the_files_of_one_without_even_if_it_is_killed(
    extract: Callable[..., dict[str, bytes]], project: Path, on_write: Callable[..., list[int]]
) -> None:
    whole = extract("whole")
    assert json.loads(whole["manifest.json"])["failed"] == 2
    assert extract("ray", engine="ray") == whole

    written = on_write(at_2=interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract("killed", engine="ray", workers=1)
    assert len(list((project / "killed").glob("*.parquet"))) == 1
    assert extract("killed", engine="ray", workers=1) == whole
    assert len(written) == 2 + 2 + 1, "of three shards one was there already; the manifest comes last"


@pytest.mark.usefixtures("cluster")
def test_what_a_worker_says_of_the_model_reaches_the_user(
    extract: Callable[..., dict[str, bytes]], project: Path
) -> None:
    adapter = project / "adapter"
    adapter.mkdir()
    shutil.copy(project / "data/06_models/odin-nano/tokenizer.json", adapter)
    base = str(project / "data/06_models/odin-nano")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    with pytest.raises(DatasetError, match="weights cannot be read"):
        extract("out", model=str(adapter), engine="ray", workers=1)


def test_a_lost_worker_and_a_lost_node_cost_nothing_and_a_node_that_joins_late_goes_on(
    cluster: Any,
    extract: Callable[..., dict[str, bytes]],
    on_write: Callable[..., list[int]],
    join: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "odin_slm.inference.batch_ray")
    whole = extract("whole", shard_size=1)
    lost = next(iter(cluster.worker_nodes))

    def readers() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["name"]) if (p.info["name"] or "").startswith("ray::_Reading")]

    def kill_one() -> None:
        readers()[0].kill()

    def swap() -> None:
        on_it = readers()
        cluster.remove_node(lost, allow_graceful=False)
        for process in on_it:  # they would notice, maybe after all shards are read; with a machine its processes end
            with suppress(psutil.NoSuchProcess):
                process.kill()
        join(cluster.address)

    on_write(at_1=kill_one, at_3=swap)
    assert extract("lost", shard_size=1, engine="ray") == whole
    said = [record.getMessage() for record in caplog.records]
    assert sum("A worker was lost over" in one for one in said) >= 2
    assert any("A worker was lost over shard-" in one for one in said)
    loaded = [one for one in said if "has loaded the model" in one]
    assert lost.node_id[:8] in loaded[0]
    assert lost.node_id[:8] not in loaded[-1]


def test_a_machine_with_other_packages_or_another_model_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    from odin_slm.config.parameters import ExtractionParams
    from odin_slm.core.errors import BackendError
    from odin_slm.inference.batch import Job

    folder = shutil.copytree(tiny_base, tmp_path / "base")
    job = Job(resolve_model(str(folder), root=tmp_path), ExtractionParams())
    _check_machine(job, _versions(), "10.0.0.2 (abc)")
    with pytest.raises(BackendError, match=r"10\.0\.0\.2.* torch 1\.0, .*Install the same versions"):
        _check_machine(job, {**_versions(), "torch": "1.0"}, "10.0.0.2 (abc)")
    assert Job(job.model, ExtractionParams(precision="auto")).params.precision in ("fp32", "bf16"), "decided once"
    other = Job(dataclasses.replace(job.model, digest="sha256:0"), ExtractionParams())
    for broken in (other, job):
        with pytest.raises(BackendError, match=r"machine 10\.0\.0\.2 .*the model is .*same paths on all machines"):
            _check_machine(broken, _versions(), "10.0.0.2 (abc)")
        shutil.rmtree(folder, ignore_errors=True)


def test_without_ray_its_installation_is_named(
    extract: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DatasetError, match=r'pip install .* -e "\.\[ray\]"'):
        extract("out", engine="ray")
