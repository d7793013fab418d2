"""The page in a real browser, and what a fuzzer makes of the OpenAPI document."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from odin_slm.corpora.synthetic.generator import generate
from odin_slm.models.base_model import resolve_base_model
from odin_slm.serving.settings import hash_key
from serving_service import service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TEXT = "Fever 😀 & <b>rash</b> followed aspirin. It caused a cough."
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def opened(address: str, user: Path) -> str:
    """Return what a browser makes of a page: its elements, when all answers have come."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={user}", "--virtual-time-budget=20000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr[-500:]
    return done.stdout


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
        dom = opened(f"{client.base_url}/#{fragment}", tmp_path)
        found = client.post("/extract", json={"text": TEXT}).json()
    if "text=%20" in fragment:
        assert re.search(r'id="status"[^>]*class="bad"[^>]*>invalid: .*blank', dom)
        return
    shown = re.search(r'<span id="body">(.*?)</span>', dom, re.DOTALL)
    assert shown
    marks = re.findall(r'<mark class="c\d" data-type="(\w+)" data-begin="(\d+)">(.*?)<small>', shown[1])
    places = {(o["begin"], e["type"], o["text"]) for e in found["entities"] for o in e["occurrences"]}
    assert marks
    assert {(int(begin), kind, html.unescape(text)) for kind, begin, text in marks} <= places
    without_tags = re.sub(r"<small>.*?</small>|<[^>]+>", "", shown[1])
    assert html.unescape(without_tags) == TEXT, "the text itself is unchanged, and no markup of it is alive"
    assert len(re.findall(r'<g class="relation">', dom)) <= len(found["relations"])
    assert '"model": "sha256:' in html.unescape(dom), "the JSON to copy is shown"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_first_visitor_is_told_what_this_is(tiny_base: Path, tmp_path: Path) -> None:
    with service(tiny_base) as client:
        schemas, version = (client.get("/model").json()[name] for name in ("schemas", "version"))
        dom = html.unescape(opened(f"{client.base_url}/#read&schema=ade&text={quote(TEXT)}", tmp_path))
    assert "not a medical device" in dom
    assert f"served by odin-slm {version}" in dom
    offered = dict(re.findall(r'<option value="(\w+)">(.*?)</option>', dom))
    assert set(offered) == set(schemas)
    assert offered["ade"] == "ade: Drug, Symptom, causes"
    legend = re.search(r'id="legend"[^>]*>(.*?)</div>', dom)
    assert legend
    assert re.findall(r'data-type="(\w+)"', legend[1])[:2] == ["Drug", "Symptom"]
    assert "causes" in legend[1]
    assert "API key" in dom.split('id="locked" hidden')[1], "no key is asked for where none is needed"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_examples_are_of_schemas_that_the_model_knows(tiny_base: Path, tmp_path: Path) -> None:
    with service(tiny_base) as client:
        page, schemas = client.get("/").text, client.get("/model").json()["schemas"]
        dom = html.unescape(opened(f"{client.base_url}/", tmp_path))
    examples = re.findall(r'\{ label: "([^"]+)", schema: "(\w+)", text: "([^"]+)" \}', page)
    shown = re.findall(r'class="example" type="button" title="([^"]+)">(.*?)</button>', dom)
    assert [(text, label) for label, _, text in examples] == shown
    assert {schema for _, schema, _ in examples} <= set(schemas)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_types_of_another_model_have_colours_too(tiny_base: Path, tmp_path: Path) -> None:
    task = {"entities": [f"Type{n}" for n in range(9)], "sources": {"mine": {"entities": ["Type8", "Type2"]}}}
    values = {"name": "extraction", "options": {**task, "relations": [], "synonyms": {}}}
    folder = tmp_path / "model"
    shutil.copytree(tiny_base, folder)
    (folder / "task.json").write_text(json.dumps(values))
    with service(folder) as client:
        dom = html.unescape(opened(f"{client.base_url}/#read&schema=mine&text={quote(TEXT)}", tmp_path / "user"))
    legend = re.search(r'id="legend"[^>]*>(.*?)</div>', dom)
    assert legend
    colours = dict(re.findall(r'<mark class="(c\d)" data-type="(\w+)"', legend[1]))
    assert set(colours.values()) == {"Type2", "Type8"}
    assert 'title="Cough and rash' in dom, "the task's own example stands in for those of other schemas"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_locked_service_asks_for_its_key(tiny_base: Path, tmp_path: Path) -> None:
    with service(tiny_base, keys=f"clinic:{hash_key('secret')}") as client:
        dom = opened(f"{client.base_url}/", tmp_path)
    assert "This service asks for an API key." in dom
    assert '<label id="locked">' in dom


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_draws_relations(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    base = resolve_base_model("data/06_models/odin-nano", root=root)
    assert base.path
    notes = [document.text for document in generate(10, seed=3, corpus="ade")]
    with service(base.path, max_new_tokens=128) as client:
        answers = ((note, client.post("/extract", json={"text": note, "schema": "ade"}).json()) for note in notes)
        note, found = next((note, answer) for note, answer in answers if answer["relations"])
        dom = opened(f"{client.base_url}/#read&schema=ade&text={quote(note)}", tmp_path / "user")
    drawn = re.findall(r'<g class="relation"><path d="M[^"]+" marker-end="url\(#tip\)"></path><text[^>]*>(\w+)', dom)
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
