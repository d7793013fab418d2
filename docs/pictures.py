"""Makes the pictures of README and site again, from a finished run: lineage, report, and the service's pages.

    make run
    make pictures

Needs Chromium (Debian's package ``chromium``). Kedro-Viz and the service run on loopback for it; nothing is fetched.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
REPORT = ROOT / "data/08_reporting/demo/report.html"
ADAPTER = ROOT / "data/06_models/demo/adapter"
SHOWN = "train"
LARGEST = 150 * 1024
SMALLEST = 20 * 1024
TEXT = "Cough and rash developed after the second dose of enalapril."
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--hide-scrollbars"
).split()
# Without the card and the banner that greet a first visitor, and with room for the lineage.
_VIZ = {
    "userPreferences": {"showFeatureHints": False},
    "showFeatureHints": False,
    "theme": "light",
    "visible": {"sidebar": False, "miniMap": False},
}


def main() -> None:
    """Make all pictures."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("pictures: there is no Chromium here; install it, as by `apt-get install chromium`.")
    for path in (REPORT, ADAPTER):
        if not path.exists():
            sys.exit(f"pictures: {path.relative_to(ROOT)} is not there; run `make run` first.")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shoot = partial(_shoot, browser, work)
        with _lineage(work) as address:
            shoot(address, "lineage", (1500, 820), seconds=90)
        shoot(REPORT.as_uri(), "report", (1060, 700))
        with _service() as address:
            shoot(f"{address}/#read&schema=ade&text={quote(TEXT)}", "service", (1040, 1010))
        with _service("--review", str(_review(work) / "queue.jsonl")) as address:
            shoot(f"{address}/review", "review", (1100, 800))


@contextmanager
def _lineage(work: Path) -> Iterator[str]:
    """Yield the address of this project's lineage in Kedro-Viz, with one dataset chosen and its preview open."""
    command = [sys.executable, "-m", "kedro", "viz", "build", "--include-previews"]
    built = ROOT / "build"
    kept = work / "kept"
    if built.exists():
        built.rename(kept)
    try:
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        shutil.move(built, work / "viz")
    finally:
        if kept.exists():
            kept.rename(built)
    index = work / "viz/index.html"
    settings = f"<script>localStorage.setItem('KedroViz', JSON.stringify({json.dumps(_VIZ)}))</script>"
    index.write_text(index.read_text(encoding="utf-8").replace("<head>", f"<head>{settings}", 1), encoding="utf-8")
    nodes = json.loads((work / "viz/api/main").read_text(encoding="utf-8"))["nodes"]
    chosen = next(node["id"] for node in nodes if node["name"] == SHOWN)
    handler = partial(_Quiet, directory=str(work / "viz"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/?pid=combination&sid={chosen}"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _review(work: Path) -> Path:
    """Return a folder of documents to correct, chosen by the demo's model."""
    folder = work / "review"
    settings = f"reviews={folder},review.count=8,review.candidates=40"
    command = [sys.executable, "-m", "kedro", "run", "--pipelines", "review", "--params", settings]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@contextmanager
def _service(*options: str) -> Iterator[str]:
    """Yield the address of a service of the demo's model."""
    command = [sys.executable, "-m", "odin_slm.serving", "--model", str(ADAPTER), "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        for line in process.stderr:
            if match := re.search(r'"address": "([^"]+)"', line):
                break
        else:
            sys.exit("pictures: the service did not start; see `make serve`.")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield f"http://{match[1]}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _shoot(browser: str, work: Path, address: str, name: str, size: tuple[int, int], seconds: int = 10) -> None:
    """Write one picture, in few colours, so that it stays small."""
    from PIL import Image

    taken = work / f"{name}.png"
    command = [
        *(browser, *FLAGS, f"--user-data-dir={work / 'user'}", f"--window-size={size[0]},{size[1]}"),
        *(f"--virtual-time-budget={seconds * 1000}", f"--screenshot={taken}", address),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    written = IMAGES / f"{name}.png"
    with Image.open(taken) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(written, optimize=True)
    found = written.stat().st_size
    if not SMALLEST < found < LARGEST:
        sys.exit(
            f"pictures: {written.relative_to(ROOT)} has {found} bytes; expected {SMALLEST} to {LARGEST}. A smaller one "
            "was taken before the page was there: try again while the machine does nothing else."
        )
    print(json.dumps({"picture": written.relative_to(ROOT).as_posix(), "bytes": found}))


if __name__ == "__main__":
    main()
