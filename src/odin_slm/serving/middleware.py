"""What every request passes before and after its endpoint: id, size, key, rate, errors, log line, metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from typing import Any

from fastapi import HTTPException
from limits import RateLimitItem, parse_many
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from odin_slm.core.errors import ServingError
from odin_slm.serving.observability import REQUEST_ID, Metrics
from odin_slm.serving.settings import ApiKeys

_log = logging.getLogger("odin_slm.access")
# Whatever else a path may be needs a key and counts: the router also takes /predict with a line feed after it.
_OPEN = frozenset({"/", "/review", "/health", "/ready", "/metrics", "/openapi.json"})
_NAMED = frozenset({"/predict", "/extract", "/model"})
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
CLIENT_GONE = 499
"""What the log and the metrics show for a request whose client closed the connection."""

WORDS = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    422: "invalid",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
}
"""The word in ``error`` for each status."""


def error_body(status: int, details: Any) -> bytes:
    """Return the body of an error."""
    body = {"error": WORDS.get(status, "error"), "details": details, "request_id": REQUEST_ID.get() or ""}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


class RateLimit:
    """So many requests per client in a moving window.

    Counts that are kept elsewhere can be out of reach: until they answer again this process counts by itself, so that
    requests are neither refused nor let through without a limit.

    Args:
        written: As in ``600/minute``.
        storage: Address of the counts; see the library ``limits``.

    Raises:
        ServingError: Either cannot be read, or the library for the storage is not installed.
    """

    def __init__(self, written: str, storage: str = "memory://") -> None:
        try:
            items = parse_many(written)
        except ValueError as error:
            raise _not_a_limit(written, str(error)) from None
        if len(items) != 1 or items[0].amount < 1:
            raise _not_a_limit(written, "expected one limit, of at least one request")
        self.item: RateLimitItem = items[0]
        try:
            self._limiter = MovingWindowRateLimiter(storage_from_string(storage, **_patience(storage)))
        except Exception as error:  # the storages raise errors of their own, and quote the address with its password
            reason = type(error).__name__ if "@" in storage else error
            raise ServingError(
                f"the counts cannot be kept there ({reason}).",
                where="--rate-limit-storage",
                fix="Write it as in redis://HOST:6379, or leave memory://.",
            ) from None
        self._spare = MovingWindowRateLimiter(storage_from_string("memory://"))
        self.elsewhere = not storage.startswith("memory://")
        self._ask_again = 0.0

    def retry_after(self, client: str) -> int | None:
        """Count a request; return None if it may pass, else the seconds until one may."""
        if time.monotonic() >= self._ask_again:
            try:
                return self._seconds(self._limiter, client)
            except Exception as error:  # each storage has errors of its own; their messages may quote its address
                self._ask_again = time.monotonic() + _PAUSE
                _log.warning("the counts of --rate-limit-storage are out of reach: %s", type(error).__name__)
        return self._seconds(self._spare, client)

    def _seconds(self, limiter: MovingWindowRateLimiter, client: str) -> int | None:
        if limiter.hit(self.item, client):
            return None
        reset: float = limiter.get_window_stats(self.item, client).reset_time
        return max(1, int(reset - time.time()) + 1)


def _not_a_limit(written: str, why: str) -> ServingError:
    return ServingError(f"not a rate limit ({why}).", where=f"--rate-limit {written}", fix="Write it as in 600/minute.")


_PAUSE = 10.0
"""Seconds after which counts that were out of reach are asked for again."""


def _patience(storage: str) -> dict[str, Any]:
    """Return options that keep a storage from holding up a request for long, in seconds."""
    return {"socket_timeout": 1.0, "socket_connect_timeout": 1.0} if storage.startswith("redis") else {}


class RequestMiddleware:
    """ASGI middleware around the application.

    Args:
        app: The application.
        metrics: Where requests are counted.
        keys: API keys; without any, everybody may ask.
        limit: Rate limit, or None.
        max_body_bytes: Size of a request's body, at most.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, keys: ApiKeys, limit: RateLimit | None, max_body_bytes: int
    ) -> None:
        self._app, self._metrics, self._keys, self._limit = app, metrics, keys, limit
        self._max_body = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        token = REQUEST_ID.set(request_id)
        begin = time.perf_counter()
        exchange = _Exchange(receive, send, request_id, self._max_body)
        client: str | None = None
        self._metrics.in_flight.inc()
        try:
            client, refusal = await self._admit(scope, headers)
            if refusal is not None:
                await exchange.refuse(*refusal)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            # The server cancels what is left after --drain-s, and would answer for it with a plain 500.
            if exchange.status is not None:
                raise
            await exchange.refuse(503, "the service is being stopped; ask again.", {"retry-after": "1"})
        except Exception as error:
            # The traceback names places in the program; the message might quote the text.
            _log.error("failed: %s", type(error).__name__, extra={"traceback": _places(error)})
            await exchange.refuse(500, "an error of the program; the log has more under this request_id.", {})
        finally:
            seconds = time.perf_counter() - begin
            endpoint = getattr(scope.get("route"), "path", None) or _known(scope["path"])
            status = exchange.status or CLIENT_GONE
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.seconds.labels(endpoint).observe(seconds)
            fields = {"method": scope["method"], "endpoint": endpoint, "status": status, "client": client}
            fields |= {"ms": round(seconds * 1000, 1), "bytes_in": exchange.read, **scope.get("odin_slm", {})}
            quiet = endpoint in ("/health", "/ready", "/metrics") and status < 400
            _log.log(logging.DEBUG if quiet else logging.INFO, "request", extra=fields)
            REQUEST_ID.reset(token)

    async def _admit(
        self, scope: Scope, headers: dict[str, str]
    ) -> tuple[str | None, tuple[int, str, dict[str, str]] | None]:
        """Return who asks, and why they may not: status, details, headers."""
        if scope["path"] in _OPEN:
            return None, None
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body:
            return None, (413, too_large(self._max_body), {})
        name: str | None = None
        if self._keys:
            scheme, _, bearer = headers.get("authorization", "").partition(" ")
            key = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
            name = self._keys.name_of(key) if key else None
            if name is None:
                details = "send a valid key as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
                return None, (401, details, {"www-authenticate": "Bearer"})
        if self._limit is not None:
            address = (scope.get("client") or ("unknown",))[0]
            who = name or str(address)
            elsewhere = self._limit.elsewhere  # then the answer takes a while, in which others are served
            ask = self._limit.retry_after
            seconds = await asyncio.to_thread(ask, who) if elsewhere else ask(who)
            if seconds is not None:
                self._metrics.refused.labels("rate_limit").inc()
                details = f"more than {self._limit.item}; try again in {seconds} s."
                return name, (429, details, {"retry-after": str(seconds)})
        return name, None


def too_large(limit: int) -> str:
    """Return what a client reads whose body is too large."""
    return f"the body exceeds {limit} bytes."


class _Exchange:
    """One request's two directions, watched."""

    def __init__(self, receive: Receive, send: Send, request_id: str, max_body: int) -> None:
        self._receive, self._send, self._request_id, self._max_body = receive, send, request_id, max_body
        self.read = 0
        self.status: int | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.read += len(message.get("body", b""))
            if self.read > self._max_body and self.status is None:
                raise HTTPException(413, too_large(self._max_body))  # FastAPI lets its own error through
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [
                (b"x-request-id", self._request_id.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"cache-control", b"no-store"),
            ]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        await self._send(message)

    async def refuse(self, status: int, details: str, headers: dict[str, str]) -> None:
        if self.status is not None:  # the answer has begun, nothing can be put right
            return
        body = error_body(status, details)
        listed = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        if status in (401, 413, 429) and self.read == 0:
            listed["connection"] = "close"  # the body was not read
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in listed.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})


def _known(path: str) -> str:
    """Return a path that may be a metric's label; what clients make up may not."""
    return path if path in _NAMED else "other"


def _places(error: BaseException) -> list[str]:
    places, traceback = [], error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return places
