"""The page that corrects: in a real browser by its keys, with services and browsers that are killed on the way."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException

from browser import CHROMIUM, Browser, browser
from odin_slm.core.errors import ServingError
from odin_slm.core.hashing import canonical_jsonl
from odin_slm.review.queue import read_queue, task_fault
from odin_slm.serving.review import ReviewedDocument, ReviewQueue
from odin_slm.serving.settings import hash_key
from review_values import META, TYPES, tasks
from serving_service import service, service_process

NOTE = "😀 Aspirin caused a rash, and the fever\nof warfarin ended."
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


def span(text: str, label: str, confidence: float | None = None) -> dict[str, Any]:
    begin = NOTE.index(text)
    return {"start": begin, "end": begin + len(text), "label": label, "confidence": confidence}


def relation(head: dict[str, Any], child: dict[str, Any], confidence: float | None = None) -> dict[str, Any]:
    ends = {
        side: {key: one[key] for key in ("start", "end", "label")} for side, one in (("head", head), ("child", child))
    }
    return {"label": "causes", "head_span": ends["head"], "child_span": ends["child"], "confidence": confidence}


def given(number: int) -> dict[str, Any]:
    """A note of which the model has one mention right, one of a wrong type, one too many, and one relation wrong."""
    aspirin, caused, rash = span("Aspirin", "Drug", 0.9), span("caused", "Symptom", 0.2), span("rash", "Drug", 0.4)
    line = {"id": f"note-{number}", "text": NOTE, "spans": [aspirin, caused, rash]}
    return {**line, "relations": [relation(aspirin, caused, 0.1)], "meta": META, "answer": None}


KEYS = ("ArrowRight", "Delete", "2", "a", *["ArrowRight"] * 2, "Shift+ArrowRight", "2", "ArrowLeft", "ArrowLeft")
KEYS = (*KEYS, "l", "ArrowRight", "Enter")
"""What mends it: the second mention goes, the next one is a symptom, the fever is added, and the rash is linked."""


def mended(number: int) -> dict[str, Any]:
    aspirin, rash, fever = span("Aspirin", "Drug", 0.9), span("rash", "Symptom"), span("the fever", "Symptom")
    line = {"id": f"note-{number}", "text": NOTE, "spans": [aspirin, rash, fever]}
    return {**line, "relations": [relation(aspirin, rash)], "meta": META, "answer": "accept"}


@pytest.fixture
def queue(tmp_path: Path) -> Callable[..., Path]:
    """Write a review; return its queue."""

    def written(documents: list[dict[str, Any]]) -> Path:
        manifest = {"types": TYPES, "made": META["made"], "model": {"digest": META["model"]}}
        (tmp_path / "review.json").write_text(json.dumps(manifest))
        (tmp_path / "queue.jsonl").write_text(canonical_jsonl(documents))
        return tmp_path / "queue.jsonl"

    return written


def held(file: Path) -> list[dict[str, Any]]:
    return list(read_queue(file.name, file.read_text(encoding="utf-8")))


def at(page: Browser, address: str, number: int, of: int = 20) -> None:
    page.wait(lambda: page.text("#place").startswith(f"Document {number} of {of}"))


@contextmanager
def killed_at_the_end(**options: Any) -> Iterator[None]:
    """Run the service in a process of its own, which ends by SIGKILL."""
    with service_process(**options) as (process, _):
        try:
            yield
        finally:
            process.kill()


@needs_browser
def test_twenty_documents_by_keyboard_with_a_service_and_a_browser_killed(
    tiny_base: Path, tmp_path: Path, queue: Callable[..., Path]
) -> None:
    file = queue([given(number) for number in range(1, 21)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"model": tiny_base, "review": file, "port": port, "decoders": "threads"}
    address = f"http://127.0.0.1:{port}/review"
    with browser(tmp_path / "one") as page:
        with killed_at_the_end(**options):
            page.open(address)
            for number in range(1, 11):
                at(page, address, number)
                page.press(*KEYS, "Enter")
            at(page, address, 11)
            page.press(*KEYS)
        assert held(file) == [*map(mended, range(1, 11)), *map(given, range(11, 21))]
        page.press("Enter")
        page.wait(lambda: "Not saved" in page.text("#status"))
        assert page.text("#spans").count("the fever") == 1, "the document on the screen is still there"
        with killed_at_the_end(**options):
            page.press("Enter")
            for number in range(12, 16):
                at(page, address, number)
                page.press(*KEYS, "Enter")
            at(page, address, 16)
            page.press(*KEYS)
            page.kill()
            assert held(file) == [*map(mended, range(1, 16)), *map(given, range(16, 21))], (
                "the one on the screen is lost"
            )
            with browser(tmp_path / "other") as page:
                page.open(address)
                for number in range(16, 21):
                    at(page, address, number)
                    page.press(*KEYS, "Enter")
                page.wait(lambda: "20 of 20 documents reviewed" in page.text("#about"))
                assert page.value("document.getElementById('done').checkVisibility()")
    assert held(file) == list(map(mended, range(1, 21)))
    assert sorted(one.name for one in tmp_path.glob("*.json*")) == ["queue.jsonl", "review.json"], (
        "nothing half-written"
    )


@needs_browser
def test_keys_and_mouse_on_one_document(tiny_base: Path, tmp_path: Path, queue: Callable[..., Path]) -> None:
    file = queue([*tasks(), {**tasks()[1], "id": "note-3"}])
    with service(tiny_base, review=str(file)) as client, browser(tmp_path / "user") as page:
        page.open(f"{client.base_url}/review")
        at(page, "", 1, of=3)
        assert "uncertain: 25 % expected wrong" in page.text("#reason")
        shown = page.value(
            "[...document.querySelectorAll('#body [data-begin]')].map((part) => part.textContent).join('')"
        )
        assert shown == tasks()[0]["text"], "spans that overlap change no character"
        assert len(page.value("[...document.querySelectorAll('.relation text')].map((one) => one.textContent)")) == 2
        page.press(" ")
        assert "seen" in page.text("#spans")
        page.press("1", "u", "ArrowDown", "Delete", "Backspace")
        assert page.text("#relations").strip() == "None."
        page.press("u", "u", "u", "u")
        assert "nothing to undo" in page.text("#status")
        assert page.value("JSON.stringify(content()) === saved")
        page.press("ArrowLeft", "l", "ArrowLeft")
        assert "press the number of a relation, or Enter" in page.text("#status")
        page.press("1")
        assert "linked already" in page.text("#status")
        page.press("Escape", "ArrowDown", "l")
        assert "Go to an entity first" in page.text("#status")
        page.press("ArrowRight", "2")
        assert "of its relations went" in page.text("#status")
        page.press("s")
        at(page, "", 2, of=3)
        place = page.value(
            "(() => { const r = document.createRange(), t = document.querySelector('#body span').firstChild;"
            "r.setStart(t, 8); r.setEnd(t, 11); const b = r.getBoundingClientRect();"
            "return [b.left, b.right, (b.top + b.bottom) / 2] })()"
        )
        page.drag((place[0] + 1, place[2]), (place[1] - 1, place[2]))
        assert "Add “was”" in page.text("#status")
        page.press("2")
        page.press("PageDown")
        at(page, "", 3, of=3)
    first, second, third = held(file)
    assert first["answer"] == "ignore"
    assert [(one["label"], one["confidence"]) for one in second["spans"]] == [("Symptom", None)]
    assert (second["answer"], third["answer"]) == (None, None), "what was left without an answer is saved, and open"
    assert not [task_fault(one, TYPES) for one in (first, second) if task_fault(one, TYPES)]


def test_the_page_is_off_unless_a_queue_is_named(tiny_base: Path) -> None:
    with service(tiny_base) as client:
        assert {client.get(path).status_code for path in ("/review", "/review/queue")} == {404}
        assert "/review/queue" not in client.get("/openapi.json").json()["paths"]


def test_the_page_needs_nothing_from_elsewhere(tiny_base: Path, queue: Callable[..., Path]) -> None:
    with service(tiny_base, review=str(queue(tasks()))) as client:
        page = client.get("/review")
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)""", page.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def body(client: httpx.Client, **change: Any) -> dict[str, Any]:
    (task, *_) = client.get("/review/queue").json()["documents"]
    return {key: task[key] for key in ("spans", "relations", "tag")} | {"answer": "accept", **change}


def test_documents_need_a_key_where_there_is_one(tiny_base: Path, queue: Callable[..., Path]) -> None:
    file = queue(tasks())
    with service(tiny_base, keys=f"ward:{hash_key('secret')}", review=str(file)) as client:
        assert client.get("/review").status_code == 200, "the page holds no document"
        assert client.get("/review/queue").status_code == 401
        assert client.put("/review/documents/note-1", json={}).status_code == 401
        client.headers["X-API-Key"] = "secret"
        assert client.put("/review/documents/note-1", json=body(client)).status_code == 200
    assert held(file)[0]["answer"] == "accept"


def test_only_what_is_sound_and_up_to_date_is_saved(tiny_base: Path, queue: Callable[..., Path]) -> None:
    file = queue(tasks())
    with service(tiny_base, review=str(file)) as client:

        def put(name: str = "note-1", **change: Any) -> tuple[int, str]:
            answer = client.put(f"/review/documents/{name}", json=body(client, **change))
            return answer.status_code, str(answer.json().get("details"))

        assert put("note/9")[0] == 404
        beyond = {"start": 0, "end": 999, "label": "Drug"}
        for status, said, change in (
            (422, "the text has", {"spans": [beyond]}),
            (422, "Gene", {"spans": [{**beyond, "end": 1, "label": "Gene"}], "relations": []}),
            (422, "does not join", {"spans": []}),
            (422, "answer", {"answer": "perhaps"}),
            (409, "load the page again", {"tag": "old"}),
        ):
            found, details = put(**change)
            assert (found, said in details) == (status, True), details
        assert held(file) == tasks()
        assert put() == (200, "None")
        assert put(tag="old") == (200, "None"), "what is in the file already may be sent again"
    assert held(file) == [{**tasks()[0], "answer": "accept"}, tasks()[1]]


def test_a_queue_that_was_replaced_meanwhile_is_not_written_over(queue: Callable[..., Path]) -> None:
    file = queue(tasks())
    review = ReviewQueue(file)
    queue(tasks()[1:])
    first = {**review.listed()["documents"][0], "answer": "accept"}
    correction = ReviewedDocument(**{name: first[name] for name in ReviewedDocument.model_fields})
    with pytest.raises(HTTPException, match="changed outside this page; start the service again"):
        review.save("note-1", correction)
    assert held(file) == tasks()[1:]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("review.json", None),
        ("review.json", "{}"),
        ("review.json", '{"types": {}, "made": "2026", "model": {"digest": "0"}}'),
        ("review.json", '{"types": {"entities": ["A"], "relations": ["a"]}, "made": "", "model": {"digest": ""}}'),
        ("queue.jsonl", None),
        ("queue.jsonl", ""),
        ("queue.jsonl", '{"id": "a"}\n'),
        ("queue.jsonl", "\udcff"),
    ],
)
def test_a_queue_that_is_none_is_refused_at_the_start(
    queue: Callable[..., Path], name: str, content: str | None
) -> None:
    file = queue(tasks())
    broken = file.with_name(name)
    broken.unlink()
    if content is not None:
        broken.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ServingError, match="--review"):
        ReviewQueue(file)
