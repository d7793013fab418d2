"""The server of docker-compose.yml, started by its own command without the container, takes runs and registry."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import yaml
from kedro.pipeline import Node, Pipeline

from conftest import ROOT, runner_in
from extraction_values import TASK
from odin_slm.core.hashing import canonical_jsonl
from odin_slm.tracking.registry import PREDICTIONS, Registry
from tracking.test_promotion import rows

SERVICE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["mlflow"]


def write_manifest() -> dict[str, int]:
    """Make a manifest."""
    return {"seed": 42}


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running server; its health check is the container's."""
    volume = tmp_path_factory.mktemp("volume")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = shlex.split(SERVICE["command"].replace("/mlflow/", f"{volume}/"))
    words[words.index("--port") + 1] = str(port)
    words[words.index("--workers") + 1] = "1"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    address = f"http://127.0.0.1:{port}"
    with (volume / "log").open("w") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**os.environ, **SERVICE["environment"], "PATH": path},
            cwd=volume,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            check = SERVICE["healthcheck"]["test"]
            url = re.search(r"'(http.*?)'", check[-1])[1].replace(":5000", f":{port}")  # type: ignore[index]
            for _ in range(240):
                assert started.poll() is None, (volume / "log").read_text()
                try:
                    urllib.request.urlopen(url, timeout=5)
                    break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            os.killpg(started.pid, signal.SIGTERM)
            started.wait(30)
    assert (volume / "mlflow.db").is_file()
    assert list((volume / "artifacts").rglob("manifest.json"))


def test_runs_artifacts_and_registry_go_to_the_server(
    bare_project: Path, register: Callable[..., None], server: str
) -> None:
    (bare_project / "conf/server").mkdir()
    text = (ROOT / "conf/server/mlflow.yml").read_text()
    (bare_project / "conf/server/mlflow.yml").write_text(text.replace("http://127.0.0.1:5000", server))
    (bare_project / "conf/base/catalog.yml").write_text(
        "manifest:\n  type: odin_slm.datasets.json_files.CanonicalJSONDataset\n  filepath: data/manifest.json\n"
        "  metadata: {mlflow: {artifact_path: data}}\n"
    )
    register(data=Pipeline([Node(func=write_manifest, inputs=None, outputs="manifest", name="write_manifest")]))
    runner_in(bare_project, env="server")("data")
    client = mlflow.MlflowClient(server)
    (run,) = client.search_runs([client.get_experiment_by_name("odin-slm").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert [entry.path for entry in client.list_artifacts(run.info.run_id, "data")] == ["data/manifest.json"]

    registry = Registry("odin-medical-ner-re")
    registry._make(TASK)
    client.log_text(run.info.run_id, canonical_jsonl(rows(0.5, 1)), PREDICTIONS)
    made = client.create_model_version(registry.name, f"{run.info.artifact_uri}/model", run.info.run_id)
    test = {"significance": 0.05, "resamples": 199, "seed": 1}
    assert registry.promote(str(made.version), task=TASK, test=test)["decision"] == "promote"
    assert registry.as_champion().rows == rows(0.5, 1)  # type: ignore[union-attr]
    assert registry.history()[0]["action"] == "promote"


def test_the_server_has_the_version_that_runs_are_made_with() -> None:
    pinned = re.search(r"^mlflow==(.+)$", (ROOT / "requirements/constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert SERVICE["image"].endswith(f":v{pinned[1]}")
    assert SERVICE["ports"] == ["127.0.0.1:5000:5000"], "no password: only this machine"
