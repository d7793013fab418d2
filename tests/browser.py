"""A headless Chromium that a test types into, over its debugging pipe: no driver and no socket in between.

The protocol is https://chromedevtools.github.io/devtools-protocol/, with messages that end in a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


class Browser:
    """One page of a running browser.

    Args:
        process: The browser.
        to: Descriptor that it reads from.
        back: Descriptor that it writes to.
    """

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self.process = process
        self._to, self._back, self._number, self._read = to, back, 0, b""
        self._session = ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def open(self, address: str) -> None:
        """Go to a page, and wait until it is there."""
        self._ask("Page.navigate", url=address)
        self.wait(lambda: self.value("document.readyState") == "complete")

    def value(self, script: str) -> Any:
        """Return what a script's expression is, as JSON."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        """Return what an element shows."""
        return str(self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    def press(self, *keys: str) -> None:
        """Press keys one after the other, as ``Enter``, ``a`` or ``Shift+ArrowRight``."""
        for key in keys:
            *held, name = key.split("+")
            pressed = {"key": name, "code": name, "modifiers": 8 * ("Shift" in held) + 2 * ("Control" in held)}
            self._ask("Input.dispatchKeyEvent", type="keyDown", **pressed)
            self._ask("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def drag(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """Select by mouse, from one point of the page to another."""
        for kind, (x, y), held in (("mousePressed", begin, 1), ("mouseMoved", end, 1), ("mouseReleased", end, 0)):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=held, clickCount=1)

    def picture(self, file: Path, width: int = 1100, height: int = 800) -> None:
        """Write what the page looks like as PNG."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        file.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot")["data"]))

    def wait(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited in vain; the page says {self.text('body')[:500]!r}"
            time.sleep(0.02)

    def kill(self) -> None:
        """End the browser as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._read:
                found = os.read(self._back, 2**16)
                assert found, "the browser is gone"
                self._read += found
            line, _, self._read = self._read.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])


@contextmanager
def browser(user: Path) -> Iterator[Browser]:
    """Start a browser; yield a page of it.

    Args:
        user: Folder of its profile.
    """
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (*os.pipe(), *os.pipe())]
    its_in, to, back, its_out = ends

    def connect() -> None:
        os.dup2(its_in, 3)
        os.dup2(its_out, 4)

    command = [str(CHROMIUM), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={user}", "about:blank"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stderr=quiet, stdout=quiet, preexec_fn=connect, close_fds=False) as process:
        os.close(its_in)
        os.close(its_out)
        try:
            yield Browser(process, to, back)
        finally:
            process.kill()
            os.close(to)
            os.close(back)
