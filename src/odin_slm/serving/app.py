"""The FastAPI application: endpoints, errors and the page.

This module keeps its annotations as values: FastAPI reads the bodies of requests from them, and those are made for the
served model.
"""

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException

from odin_slm import __version__
from odin_slm.inference.reading import TokenBudget
from odin_slm.inference.served_model import ServedModel
from odin_slm.serving.answering import Answering, Canary, ClientGoneError
from odin_slm.serving.api_schemas import Api, ErrorBody, Health, ModelCard, Ready, api_of
from odin_slm.serving.engine import Engine
from odin_slm.serving.middleware import CLIENT_GONE, WORDS, RateLimit, RequestMiddleware, error_body
from odin_slm.serving.observability import Metrics
from odin_slm.serving.review import PAGE, ReviewQueue, review_router
from odin_slm.serving.settings import ApiKeys, ServingSettings

_log = logging.getLogger(__name__)
_PAGE = Path(__file__).parents[1] / "templates" / "serving.html"

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

    title = model.task.title
    app = FastAPI(
        title="odin-slm",
        version=__version__,
        summary=f"{title[:1].upper()}{title[1:]}.",
        description="/model says what the model was taught. Not a medical device. Every error is "
        "`{error, details, request_id}`.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    limit = RateLimit(settings.rate_limit, settings.rate_limit_storage) if settings.rate_limit else None
    most = settings.max_body_bytes
    app.add_middleware(RequestMiddleware, metrics=metrics, keys=keys, limit=limit, max_body_bytes=most)
    _handle_errors(app)
    answering = Answering(model, engine, budget, metrics, settings)
    # The middleware checks keys before the body is read; these two only describe them.
    schemes = (HTTPBearer(auto_error=False), APIKeyHeader(name="X-API-Key", auto_error=False)) if keys else ()
    guarded: dict[str, Any] = {"responses": _RESPONSES, "dependencies": [Security(scheme) for scheme in schemes]}
    app.include_router(_model_router(answering, api_of(model), **guarded))
    if settings.review:
        page = PAGE.read_text(encoding="utf-8")
        app.include_router(review_router(ReviewQueue(Path(settings.review)), page, _policy(page), **guarded))
    app.include_router(_service_router(Canary(model, engine, metrics), metrics, stopping, model))
    return app


def _model_router(answering: Answering, api: Api, **options: Any) -> APIRouter:
    """Return the endpoints that need a key, where there are keys."""
    router = APIRouter(**options)

    @router.post("/predict", response_model=api.predict_response, tags=["extraction"])
    async def predict(request: Request, body: api.predict_request) -> Any:  # type: ignore[name-defined]
        """Read one text or several, each within the model's window."""
        return await answering.predict(request, body)

    @router.post("/extract", response_model=api.extract_response, tags=["extraction"])
    async def extract(request: Request, body: api.extract_request) -> Any:  # type: ignore[name-defined]
        """Read a document of any length in overlapping windows of sentences, and join what they say."""
        return await answering.extract(request, body)

    @router.get("/model", response_model=ModelCard, tags=["service"])
    async def card() -> Any:
        """Say what is served: its digest, where it comes from, its measured scores, its limits."""
        return answering.card()

    return router


def _service_router(canary: Canary, metrics: Metrics, stopping: asyncio.Event, model: ServedModel) -> APIRouter:
    """Return the endpoints that need no key: health, metrics, and the page."""
    router = APIRouter()
    not_ready: dict[int | str, dict[str, Any]] = {
        503: {"model": ErrorBody, "description": "The model does not answer, or the service stops."}
    }
    page, policy = _page(model)

    @router.head("/health", include_in_schema=False)  # as some load balancers ask
    @router.get("/health", response_model=Health, tags=["service"])
    async def health() -> Any:
        """Say that the process runs."""
        return {"status": "alive"}

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready", response_model=Ready, tags=["service"], responses=not_ready)
    async def ready() -> Any:
        """Say whether the model answers; load balancers send requests only then."""
        milliseconds = None if stopping.is_set() else await canary.ask()
        if milliseconds is None:
            raise HTTPException(503, "the model does not answer.", headers={"Retry-After": "5"})
        return {"status": "ready", "canary_ms": milliseconds}

    @router.get("/metrics", tags=["service"], response_class=Response)
    async def scrape() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @router.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html", headers=policy)

    return router


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

    @app.exception_handler(ClientGoneError)
    async def gone(_: Request, __: ClientGoneError) -> Response:
        return Response(status_code=CLIENT_GONE)


def _page(model: ServedModel) -> tuple[str, dict[str, str]]:
    """Return the page and its policy."""
    task = model.task
    described = {
        "task": task.name,
        "title": task.title,
        "example": task.example,
        "source": model.default_source,
        "schemas": {name: model.describe_source(name) for name in model.sources},
    }
    # A script ends at the first end tag, whatever string it stands in.
    values = json.dumps(described, ensure_ascii=False).replace("<", "\\u003c")
    page = _PAGE.read_text(encoding="utf-8").replace("{{ MODEL }}", values)
    return page, _policy(page)


def _policy(page: str) -> dict[str, str]:
    """Return headers that let nothing run but a page's own script, and let it talk to this host only."""

    def hashed(tag: str) -> str:
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = hashlib.sha256(content[1].encode("utf-8")).digest() if content else b""
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    policy = (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
