"""How long the client waits, and what it says when it gives up."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError

from odin_slm.core.errors import HubError, HubUnreachableError
from odin_slm.hub.client import Hub, is_transient, lacks_xet, status_of, wait_of


def answer(status: int, **headers: str) -> HfHubHTTPError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, headers=named, request=httpx.Request("GET", "https://hub.example.org/api/x"))
    return HfHubHTTPError("failed", response=response)


def test_the_hub_says_how_long_to_wait() -> None:
    assert wait_of(answer(429, Retry_After="7"), 1) == 7
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < wait_of(answer(503, Retry_After=in_a_minute), 1) <= 61
    assert wait_of(answer(503, Retry_After=email.utils.formatdate(0, usegmt=True)), 1) == 0
    assert wait_of(answer(429, RateLimit='"api";r=0;t=23'), 1) == 23
    assert wait_of(answer(429, Retry_After="soon"), 2) == 2
    assert [wait_of(httpx.ReadError("cut"), attempt) for attempt in range(1, 7)] == [1, 2, 4, 8, 16, 16]


@pytest.mark.parametrize(
    ("error", "transient"),
    [(answer(s), True) for s in (429, 500, 502, 503, 504)]
    + [(answer(s), False) for s in (400, 401, 403, 404, 409, 412)]
    + [(httpx.ReadError("cut"), True), (httpx.ConnectTimeout("late"), True), (ConnectionResetError(), True)]
    + [(ValueError("Invalid metadata in README.md"), False)],
)
def test_what_may_pass_is_told_from_what_will_not(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient
    wrapped = RuntimeError("Error while uploading 'x' to the Hub.")
    wrapped.__cause__ = error
    assert is_transient(wrapped) is transient
    assert status_of(wrapped) == status_of(error)


def test_xets_client_tells_the_status_in_words() -> None:
    url = "https://hub.example.org/api/models/a/b/xet-write-token/main"
    refused = ConnectionError(f"Network error: Request error: HTTP status client error (403 Forbidden), domain: {url}")
    assert status_of(refused) == 403
    assert not is_transient(refused)
    assert str(Hub("https://hub.example.org").explain("commit", refused)).startswith(
        "commit: the Hub's storage answers 403. Use a token with write access"
    )
    assert is_transient(ConnectionError(f"Network error: HTTP status server error (503), domain: {url}"))
    assert lacks_xet(ConnectionError(f"HTTP status client error (404 Not Found), domain: {url}"))
    assert not lacks_xet(refused)


def test_a_request_is_repeated_until_it_goes_through_or_is_refused() -> None:
    pauses: list[float] = []
    hub = Hub("https://hub.example.org", pause=pauses.append)
    outcomes: list[Any] = [httpx.ReadError("cut"), answer(503), "done"]

    def request(api: Any) -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    assert hub.ask("look", request) == "done"
    assert pauses == [1, 2]
    outcomes = [answer(403), "never asked"]
    with pytest.raises(HubError, match=r"^look: the Hub answers 403\. Use a token with write access"):
        hub.ask("look", request)
    assert outcomes == ["never asked"]
    outcomes = [httpx.ReadError("cut")] * 5
    with pytest.raises(
        HubUnreachableError, match=r"no answer from https://hub.example.org \(ReadError\) after 5 attempts"
    ):
        hub.ask("look", request)
    with pytest.raises(ZeroDivisionError):
        hub.ask("look", lambda api: 1 / 0)
