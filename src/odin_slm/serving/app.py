"""The FastAPI application."""

import asyncio
import base64
import hashlib
import importlib.metadata
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException

from odin_slm.core.errors import GrammarError, RecordTooLongError
from odin_slm.inference.reading import Question, TokenBudget, assemble, instruction_of
from odin_slm.inference.served_model import ServedModel
from odin_slm.serving.api_schemas import ErrorBody, Health, ModelCard, Options, Ready, api_of
from odin_slm.serving.engine import Engine, QueueFullError, UnavailableError
from odin_slm.serving.logs import text_hash
from odin_slm.serving.metrics import Metrics
from odin_slm.serving.middleware import CLIENT_GONE, WORDS, Guard, RateLimit, error_body
from odin_slm.serving.settings import ApiKeys, ServingSettings

_log = logging.getLogger(__name__)
_PAGE = Path(__file__).parents[1] / "templates" / "serving.html"
_CANARY_SECONDS = 10.0
_CANARY_VALID = 5.0
Result = TypeVar("Result")

_ERRORS: dict[int, str] = {
    400: "The body is not JSON.",
    401: "The key is missing or unknown.",
    413: "The body, or a text, is too large.",
    422: "The request does not follow the schema.",
    429: "The queue is full, or the rate limit is reached; the header Retry-After says when to try again.",
    503: "The service is stopping, or the model does not answer in time.",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "model": ErrorBody,
        "description": text,
        **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status in (429, 503) else {}),
    }
    for status, text in _ERRORS.items()
}


class _ClientGone(Exception):
    """Nobody waits for the answer."""


def make_app(
    model: ServedModel,
    engine: Engine,
    budget: TokenBudget,
    metrics: Metrics,
    settings: ServingSettings,
    keys: ApiKeys,
) -> FastAPI:
    """Return the application.

    Args:
        model: What is served.
        engine: Who decodes; it is started and stopped with the application.
        budget: How much text fits where.
        metrics: What Prometheus scrapes.
        settings: Limits.
        keys: API keys.
    """
    stopping = asyncio.Event()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        _log.info("serving", extra={"model": model.source, "digest": model.digest})
        yield
        stopping.set()
        await engine.stop()
        _log.info("stopped")

    version = importlib.metadata.version("odin-slm")
    app = FastAPI(
        title="odin-slm",
        version=version,
        summary="Entities and relations in medical text.",
        description="Drugs, diseases and symptoms with their character offsets, and how they are related. Not a "
        "medical device. Every error is `{error, details, request_id}`.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    limit = RateLimit(settings.rate_limit, settings.rate_limit_storage) if settings.rate_limit else None
    app.add_middleware(Guard, metrics=metrics, keys=keys, limit=limit, max_body_bytes=settings.max_body_bytes)
    _handle_errors(app)
    # The guard checks keys before the body is read; these two only describe them.
    guarded: dict[str, Any] = {"responses": _RESPONSES}
    if keys:
        bearer, header = HTTPBearer(auto_error=False), APIKeyHeader(name="X-API-Key", auto_error=False)
        guarded["dependencies"] = [Security(bearer), Security(header)]

    api, task = api_of(model), model.task

    def questions(body: Options, texts: list[str]) -> list[Question]:
        instruction = instruction_of(task, model.instructions, body.schema_name)
        return [Question(text, instruction, task if body.constrained else None) for text in texts]

    async def write(request: Request, asked: list[Question]) -> Any:
        try:
            return await _unless_gone(request, engine.write(asked, timeout=settings.timeout_s))
        except QueueFullError as error:
            metrics.refused.labels("queue_full").inc()
            raise HTTPException(
                429,
                f"the queue is full; try again in {error.retry_after} s.",
                headers={"Retry-After": str(error.retry_after)},
            ) from None
        except TimeoutError:
            details = f"no answer within {settings.timeout_s:g} s."
            raise HTTPException(503, details, headers={"Retry-After": "5"}) from None
        except UnavailableError as error:
            raise HTTPException(503, f"{error}.", headers={"Retry-After": "5"}) from None
        except GrammarError:
            raise HTTPException(422, "no grammar can be made from the text; ask with constrained=false.") from None
        except RecordTooLongError:
            raise HTTPException(413, "a text does not fit into the model's window; use /extract.") from None

    @app.post("/predict", response_model=api.predict_response, tags=["extraction"], **guarded)
    async def predict(request: Request, body: api.predict_request) -> Any:  # type: ignore[name-defined]
        """Read one text or several, each within the model's window."""
        begin = time.perf_counter()
        texts = body.all_texts
        if len(texts) > settings.max_texts:
            raise HTTPException(413, f"{len(texts)} texts, at most {settings.max_texts} are allowed.")
        request.scope["odin_slm"] = {"texts": len(texts), "sha256": [text_hash(text) for text in texts[:4]]}
        for number, tokens in enumerate(await asyncio.to_thread(budget.count, texts)):
            if tokens > budget.text_tokens:
                details = f"text {number} has {tokens} tokens, at most {budget.text_tokens} fit; use /extract."
                raise HTTPException(413, details)
        outputs = await write(request, questions(body, texts))
        results = []
        for text, output in zip(texts, outputs, strict=True):
            reading = task.read(text, output.text, lines=output.lines, calibrator=model.calibrator)
            metrics.observe(reading, [output])
            results.append(
                {
                    **reading.to_dict(),
                    "output": output.text,
                    "well_formed": not reading.malformed,
                    "finished": output.finished,
                    "tokens": output.tokens,
                }
            )
        return {**_about(model, body, begin), "results": results}

    @app.post("/extract", response_model=api.extract_response, tags=["extraction"], **guarded)
    async def extract(request: Request, body: api.extract_request) -> Any:  # type: ignore[name-defined]
        """Read a document of any length in overlapping windows of sentences, and join what they say."""
        begin = time.perf_counter()
        # To cut a text takes many times as long as to count its tokens. Twice as many as windows have room for are too
        # many however it is cut, whatever white space it loses.
        (tokens,) = await asyncio.to_thread(budget.count, [" ".join(body.text.split())])
        spans: list[tuple[int, int]] = []
        if tokens <= 2 * settings.max_windows * budget.window_tokens:
            spans = await asyncio.to_thread(budget.windows, body.text, settings.overlap)
        if not 0 < len(spans) <= settings.max_windows:
            size = f"{len(spans)} windows" if spans else f"{tokens} tokens"
            details = f"the document has {size}, at most {settings.max_windows} windows of {budget.window_tokens} "
            raise HTTPException(413, f"{details}tokens are allowed; cut it, or run the extraction pipeline.")
        request.scope["odin_slm"] = {"windows": len(spans), "sha256": [text_hash(body.text)]}
        outputs = await write(request, questions(body, [body.text[b:e] for b, e in spans]))
        found = await asyncio.to_thread(assemble, task, body.text, spans, outputs, model.calibrator)
        metrics.observe(found.reading, outputs)
        windows = [
            {"begin": w.begin, "end": w.end, "output": w.output, "finished": w.finished, "tokens": w.tokens}
            for w in found.windows
        ]
        return {**_about(model, body, begin), **found.reading.to_dict(), "windows": windows}

    @app.get("/model", response_model=ModelCard, tags=["service"], **guarded)
    async def card() -> Any:
        """Say what is served: its digest, where it comes from, its measured scores, its limits."""
        return {
            "source": model.source,
            "digest": model.digest,
            "engine": settings.engine,
            "base": model.base.path.name if model.base.path else model.base.source,
            "created": datetime.fromtimestamp(model.created, UTC).isoformat(timespec="seconds"),
            "metrics": model.metrics,
            "card": model.card,
            "limits": {
                "text_tokens": budget.text_tokens,
                "window_tokens": budget.window_tokens,
                "max_new_tokens": settings.max_new_tokens,
                "max_texts": settings.max_texts,
                "max_windows": settings.max_windows,
                "max_body_bytes": settings.max_body_bytes,
            },
            "task": task.name,
            "example": task.example,
            "schemas": {name: task.describe_source(name) for name in task.sources},
            "version": version,
        }

    @app.get("/health", response_model=Health, tags=["service"])
    async def health() -> Any:
        """Say that the process runs."""
        return {"status": "alive"}

    canary = _Canary(
        engine, metrics, Question(task.example, instruction_of(task, model.instructions, model.schema), task)
    )
    not_ready = {503: {"model": ErrorBody, "description": "The model does not answer, or the service stops."}}

    @app.get("/ready", response_model=Ready, tags=["service"], responses=not_ready)  # type: ignore[arg-type]
    async def ready() -> Any:
        """Say whether the model answers; load balancers send requests only then."""
        milliseconds = None if stopping.is_set() else await canary.ask()
        if milliseconds is None:
            raise HTTPException(503, "the model does not answer.", headers={"Retry-After": "5"})
        return {"status": "ready", "canary_ms": milliseconds}

    @app.get("/metrics", tags=["service"], response_class=Response)
    async def scrape() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    page, policy = _page()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html", headers=policy)

    return app


class _Canary:
    """Asks the model for a few tokens, at most once every few seconds however often readiness is asked for."""

    def __init__(self, engine: Engine, metrics: Metrics, question: Question) -> None:
        self._engine, self._metrics, self._question = engine, metrics, question
        self._lock = asyncio.Lock()
        self._answer: tuple[float, float | None] = (-_CANARY_VALID, None)

    async def ask(self) -> float | None:
        """Return the milliseconds that the answer took, or None where there was none."""
        async with self._lock:
            asked, milliseconds = self._answer
            begin = time.monotonic()
            if milliseconds is not None and begin - asked < _CANARY_VALID:
                return milliseconds
            milliseconds = None
            try:
                (output,) = await self._engine.write([self._question], timeout=_CANARY_SECONDS, canary=True)
                if output.tokens:
                    milliseconds = round((time.monotonic() - begin) * 1000, 1)
            except Exception as error:
                _log.warning("the canary failed: %s", type(error).__name__)
            self._answer = (time.monotonic(), milliseconds)
            self._metrics.ready.set(milliseconds is not None)
            return milliseconds


def _about(model: ServedModel, body: Options, begin: float) -> dict[str, Any]:
    milliseconds = round((time.perf_counter() - begin) * 1000, 1)
    return {"model": model.digest, "constrained": body.constrained, "processing_ms": milliseconds}


async def _unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Await work, but cancel it as soon as the client closes the connection."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _ClientGone
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _handle_errors(app: FastAPI) -> None:
    def answer(status: int, details: Any, headers: Any = None) -> Response:
        return Response(error_body(status, details), status, headers=headers, media_type="application/json")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        faults = error.errors()
        status = 400 if any(fault["type"] == "json_invalid" for fault in faults) else 422
        # Without the input: an error must not repeat the text into somebody's log.
        return answer(status, [{"where": list(fault["loc"]), "what": fault["msg"]} for fault in faults])

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        status = error.status_code if error.status_code in WORDS else 400
        return answer(status, error.detail, error.headers)

    @app.exception_handler(_ClientGone)
    async def gone(_: Request, __: _ClientGone) -> Response:
        return Response(status_code=CLIENT_GONE)


def _page() -> tuple[str, dict[str, str]]:
    """Return the page and a policy that lets nothing run but its own script, and lets it talk to this host only."""
    page = _PAGE.read_text(encoding="utf-8")

    def hashed(tag: str) -> str:
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = hashlib.sha256(content[1].encode("utf-8")).digest() if content else b""
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    policy = (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
