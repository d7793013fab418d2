"""The page in a real browser, and what a fuzzer makes of the OpenAPI document."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from odin_slm.corpora.synthetic import generate
from odin_slm.models.base_model import resolve_base_model
from serving_service import service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TEXT = "Fever 😀 & <b>rash</b> followed aspirin. It caused a cough."
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def test_the_page_needs_nothing_from_elsewhere(tiny_base: Path) -> None:
    with service(tiny_base) as client:
        page = client.get("/")
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)""", page.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("fragment", [f"read&text={quote(TEXT)}", "read&text=%20"])
def test_a_browser_shows_what_was_read(tiny_base: Path, tmp_path: Path, fragment: str) -> None:
    with service(tiny_base) as client:
        address = f"{client.base_url}/#{fragment}"
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom"]
        done = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=False)
        found = client.post("/extract", json={"text": TEXT}).json()
    dom = done.stdout
    if "text=%20" in fragment:
        assert re.search(r'id="status"[^>]*class="bad"[^>]*>invalid: .*blank', dom)
        return
    shown = re.search(r'<span id="body">(.*?)</span>', dom, re.DOTALL)
    assert shown, done.stderr[-500:]
    marks = re.findall(r'<mark class="(\w+)" data-begin="(\d+)">(.*?)<small>', shown[1])
    places = {(o["begin"], e["type"], o["text"]) for e in found["entities"] for o in e["occurrences"]}
    assert marks
    assert {(int(begin), kind, html.unescape(text)) for kind, begin, text in marks} <= places
    without_tags = re.sub(r"<small>.*?</small>|<[^>]+>", "", shown[1])
    assert html.unescape(without_tags) == TEXT, "the text itself is unchanged, and no markup of it is alive"
    assert len(re.findall(r'<g class="relation">', dom)) <= len(found["relations"])
    assert '"model": "sha256:' in html.unescape(dom), "the JSON to copy is shown"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_draws_relations(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    base = resolve_base_model("data/06_models/odin-nano", root=root)
    assert base.path
    notes = [document.text for document in generate(10, seed=3, corpus="ade")]
    with service(base.path, max_new_tokens=128) as client:
        answers = ((note, client.post("/extract", json={"text": note, "schema": "ade"}).json()) for note in notes)
        note, found = next((note, answer) for note, answer in answers if answer["relations"])
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=20000"]
        address = f"{client.base_url}/#read&schema=ade&text={quote(note)}"
        done = subprocess.run(
            [*command, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=False
        )
    drawn = re.findall(
        r'<g class="relation"><path d="M[^"]+" marker-end="url\(#tip\)"></path><text[^>]*>(\w+)', done.stdout
    )
    assert drawn == [relation["type"] for relation in found["relations"]]


def test_a_fuzzer_finds_no_server_error(tiny_base: Path) -> None:
    with service(tiny_base, max_new_tokens=8) as client:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{client.base_url}/openapi.json"]
        command += ["--max-examples", "25", "--phases", "examples,coverage,fuzzing", "--mode", "all"]
        command += ["--checks", "not_a_server_error,response_schema_conformance", "--generation-deterministic"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        scraped = client.get("/metrics").text
    assert done.returncode == 0, done.stdout[-3000:]
    statuses = re.findall(r'odin_requests_total\{endpoint="[^"]+",status="(\d+)"\} (\S+)', scraped)
    assert not [status for status, _ in statuses if status.startswith("5")]
    assert sum(float(count) for _, count in statuses) > 100
