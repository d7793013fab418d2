"""A running service for the tests: the real application on a free port of loopback, with the tiny base."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from rich.logging import RichHandler

from conftest import ROOT
from odin_slm.inference.served_model import resolve_model
from odin_slm.serving.__main__ import build
from odin_slm.serving.settings import ApiKeys, ServingSettings

SMALL = {
    "max_new_tokens": 40,
    "window_tokens": 96,
    "queue_size": 32,
    "batch_size": 8,
    "workers": 2,
    "decoders": "threads",  # a process of its own takes seconds to start
}


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application; yield its address."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RichHandler):  # Kedro's; a request's line comes after its answer, maybe after its test
            handler.addFilter(_is_no_request)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def service(base: Path, keys: str = "", **settings: Any) -> Iterator[httpx.Client]:
    """Serve a base; yield a client of it."""
    chosen = ServingSettings(**{**SMALL, "model": str(base), **settings})
    app = build(chosen, ApiKeys(keys), resolve_model(str(base), root=base.parent))
    with running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


@contextmanager
def service_process(**options: Any) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Start ``python -m odin_slm.serving`` on a free port; yield the process, and a client of it once it is ready."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "odin_slm.serving", "--port", "0", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = [json.loads(process.stderr.readline())]
        while "address" not in lines[-1]:
            lines.append(json.loads(process.stderr.readline()))
        with httpx.Client(base_url=f"http://{lines[-1]['address']}", timeout=60) as client:
            wait_for(lambda: client.get("/ready").status_code == 200, 60)
            yield process, client


def _is_no_request(record: logging.LogRecord) -> bool:
    return record.name != "odin_slm.access"


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def metric(client: httpx.Client, name: str) -> float:
    """The value of a metric, named with its labels as Prometheus writes them; 0 where it does not occur."""
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)
