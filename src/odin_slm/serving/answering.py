"""What the endpoints do: requests checked against the limits, read by the engine, and answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import HTTPException, Request

from odin_slm import __version__
from odin_slm.core.errors import GrammarError, OdinError, RecordTooLongError
from odin_slm.inference.reading import Question, TokenBudget, assemble, check_text, instruction_of
from odin_slm.inference.served_model import ServedModel
from odin_slm.serving.api_schemas import ExtractRequest, Options, PredictRequest
from odin_slm.serving.engine import Engine, QueueFullError, UnavailableError
from odin_slm.serving.observability import Metrics, text_hash
from odin_slm.serving.settings import ServingSettings

_log = logging.getLogger(__name__)
_CANARY_SECONDS = 10.0
_CANARY_VALID = 5.0
Result = TypeVar("Result")


class ClientGoneError(Exception):
    """Nobody waits for the answer."""


class Answering:
    """A model that answers requests.

    Args:
        model: What is served.
        engine: Who decodes.
        budget: How much text fits where.
        metrics: What Prometheus scrapes.
        settings: Limits.
    """

    def __init__(
        self, model: ServedModel, engine: Engine, budget: TokenBudget, metrics: Metrics, settings: ServingSettings
    ) -> None:
        self._model, self._engine, self._budget = model, engine, budget
        self._metrics, self._settings = metrics, settings

    async def predict(self, request: Request, body: PredictRequest) -> dict[str, Any]:
        """Answer ``POST /predict``; of several texts, one that cannot be read costs no other its answer.

        Raises:
            HTTPException: There are too many texts, the only one is too long, or the engine does not answer.
        """
        begin = time.perf_counter()
        texts = body.all_texts
        if len(texts) > self._settings.max_texts:
            raise HTTPException(413, f"{len(texts)} texts, at most {self._settings.max_texts} are allowed.")
        hashes = [text_hash(text) for text in texts[:4] if isinstance(text, str)]
        request.scope["odin_slm"] = {"texts": len(texts), "sha256": hashes}
        faults = await asyncio.to_thread(self._faults, texts)
        if body.text is not None and faults:
            raise HTTPException(413, faults[0])
        left = [number for number in range(len(texts)) if number not in faults]
        outputs = await self._write_each(request, body, [texts[number] for number in left])
        written = dict(zip(left, outputs, strict=True))
        results = [self._result(text, written.get(number) or faults[number]) for number, text in enumerate(texts)]
        return {**self._about(body, begin), "results": results}

    def _faults(self, texts: Sequence[Any]) -> dict[int, str]:
        """Return why some of the texts cannot be read."""
        faults = {}
        for number, text in enumerate(texts):
            try:
                check_text(text)
                (tokens,) = self._budget.count([text])
                if tokens > self._budget.text_tokens:
                    what = f"the text has {tokens} tokens, at most {self._budget.text_tokens} fit"
                    raise OdinError(f"{what}; use /extract.")
            except OdinError as error:
                faults[number] = str(error)
        return faults

    async def _write_each(self, request: Request, body: PredictRequest, texts: Sequence[str]) -> list[Any]:
        """Return an output for every text, or why its grammar cannot be made where there are others."""
        if not texts:
            return []
        try:
            written: list[Any] = await self._write(request, body, texts)
            return written
        except HTTPException as error:
            if error.status_code != 422 or body.text is not None:
                raise
            if len(texts) == 1:
                return [str(error.detail)]
        return [(await self._write_each(request, body, [text]))[0] for text in texts]

    def _result(self, text: str, output: Any) -> dict[str, Any]:
        """Return the answer for a text, given the model's output or why there is none."""
        if isinstance(output, str):
            nothing = self._model.task.read("", "").to_dict()
            return {**nothing, "output": "", "well_formed": False, "finished": False, "tokens": 0, "error": output}
        reading = self._model.task.read(text, output.text, lines=output.lines, calibrator=self._model.calibrator)
        self._metrics.observe(reading, [output])
        return {
            **reading.to_dict(),
            "output": output.text,
            "well_formed": not reading.malformed,
            "finished": output.finished,
            "tokens": output.tokens,
            "error": None,
        }

    async def extract(self, request: Request, body: ExtractRequest) -> dict[str, Any]:
        """Answer ``POST /extract``.

        Raises:
            HTTPException: The document is too long, or the engine does not answer.
        """
        begin = time.perf_counter()
        spans = await self._windows(body.text)
        request.scope["odin_slm"] = {"windows": len(spans), "sha256": [text_hash(body.text)]}
        outputs = await self._write(request, body, [body.text[begin:end] for begin, end in spans])
        task, calibrator = self._model.task, self._model.calibrator
        found = await asyncio.to_thread(assemble, task, body.text, spans, outputs, calibrator)
        self._metrics.observe(found.reading, outputs)
        windows = [window.to_dict() for window in found.windows]
        return {**self._about(body, begin), **found.reading.to_dict(), "windows": windows}

    def card(self) -> dict[str, Any]:
        """Answer ``GET /model``."""
        model, task, settings = self._model, self._model.task, self._settings
        return {
            "source": model.source,
            "digest": model.digest,
            "engine": settings.engine,
            "base": model.base.name,
            "created": datetime.fromtimestamp(model.created, UTC).isoformat(timespec="seconds"),
            "metrics": model.metrics,
            "card": model.card,
            "limits": {
                "text_tokens": self._budget.text_tokens,
                "window_tokens": self._budget.window_tokens,
                "max_new_tokens": settings.max_new_tokens,
                "max_texts": settings.max_texts,
                "max_windows": settings.max_windows,
                "max_body_bytes": settings.max_body_bytes,
            },
            "task": task.name,
            "example": task.example,
            "schemas": {name: model.describe_source(name) for name in model.sources},
            "version": __version__,
        }

    async def _windows(self, text: str) -> list[tuple[int, int]]:
        # Cutting a text takes many times as long as counting its tokens. A text with twice as many tokens as the
        # windows have room for does not fit however it is cut, whatever white space it loses.
        budget, most = self._budget, self._settings.max_windows
        (tokens,) = await asyncio.to_thread(budget.count, [" ".join(text.split())])
        spans: list[tuple[int, int]] = []
        if tokens <= 2 * most * budget.window_tokens:
            spans = await asyncio.to_thread(budget.windows, text, self._settings.overlap)
        if not 0 < len(spans) <= most:
            size = f"{len(spans)} windows" if spans else f"{tokens} tokens"
            details = f"the document has {size}, at most {most} windows of {budget.window_tokens} "
            raise HTTPException(413, f"{details}tokens are allowed; cut it, or run the extraction pipeline.")
        return spans

    async def _write(self, request: Request, body: Options, texts: Sequence[str]) -> Any:
        task = self._model.task
        instruction = instruction_of(task, self._model.instructions, body.schema_name)
        grammars_of, calibrator = task if body.constrained else None, self._model.calibrator
        asked = [Question(text, instruction, grammars_of, calibrator) for text in texts]
        try:
            written = await _unless_gone(request, self._engine.write(asked, timeout=self._settings.timeout_s))
            return [question.kept(output) for question, output in zip(asked, written, strict=True)]
        except QueueFullError as error:
            self._metrics.refused.labels("queue_full").inc()
            raise HTTPException(
                429,
                f"the queue is full; try again in {error.retry_after} s.",
                headers={"Retry-After": str(error.retry_after)},
            ) from None
        except TimeoutError:
            details = f"no answer within {self._settings.timeout_s:g} s."
            raise HTTPException(503, details, headers={"Retry-After": "5"}) from None
        except UnavailableError as error:
            raise HTTPException(503, f"{error}.", headers={"Retry-After": "5"}) from None
        except GrammarError:
            raise HTTPException(422, "no grammar can be made from the text; ask with constrained=false.") from None
        except RecordTooLongError:
            raise HTTPException(413, "a text does not fit into the model's window; use /extract.") from None

    def _about(self, body: Options, begin: float) -> dict[str, Any]:
        milliseconds = round((time.perf_counter() - begin) * 1000, 1)
        return {"model": self._model.digest, "constrained": body.constrained, "processing_ms": milliseconds}


class Canary:
    """Asks the model for a few tokens, at most once every few seconds however often readiness is asked for.

    Args:
        model: What is served.
        engine: Who decodes.
        metrics: Where readiness is shown.
    """

    def __init__(self, model: ServedModel, engine: Engine, metrics: Metrics) -> None:
        instruction = instruction_of(model.task, model.instructions, model.schema)
        self._question = Question(model.task.example, instruction, model.task)
        self._engine, self._metrics = engine, metrics
        self._lock = asyncio.Lock()
        self._answer: tuple[float, float | None] = (-_CANARY_VALID, None)

    async def ask(self) -> float | None:
        """Return the milliseconds that the answer took, or None where there was none."""
        arrived = time.monotonic()
        async with self._lock:
            asked, milliseconds = self._answer
            begin = time.monotonic()
            if asked >= arrived or (milliseconds is not None and begin - asked < _CANARY_VALID):
                return milliseconds  # a failure counts, too, for all who waited for the same answer
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


async def _unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Await work, but cancel it as soon as the client closes the connection."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
