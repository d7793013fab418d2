"""What operators see of the service: logs, metrics and traces; docs/reference/service.md lists them.

A log line is one JSON object with the request's id. None of the three ever holds a text or a key.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from pythonjsonlogger.json import JsonFormatter

from odin_slm.inference.generation import Generation
from odin_slm.inference.served_model import ServedModel
from odin_slm.tasks.base import Reading

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that is being answered."""

_log = logging.getLogger(__name__)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def set_up_logs(level: str) -> None:
    """Log everything of this process as JSON to standard error.

    Args:
        level: Least severe level that is logged.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        json_ensure_ascii=False,
    )
    formatter.default_msec_format = "%s.%03d"
    handler.setFormatter(formatter)
    handler.addFilter(_with_request_id)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.access").disabled = True  # the service has an access log of its own
    logging.getLogger("httpx").setLevel(logging.WARNING)


def text_hash(text: str) -> str:
    """Return what the logs show in place of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True


class Metrics:
    """The service's metrics, in a registry of their own.

    Args:
        model: What is served.
        queue_size: Prompts that may wait.
    """

    def __init__(self, model: ServedModel, queue_size: int) -> None:
        self._task = model.task
        registry = self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        seconds = partial(Histogram, buckets=_SECONDS, registry=registry)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = counter("odin_requests", "Requests by endpoint and status code.", ["endpoint", "status"])
        self.seconds = seconds(
            "odin_request_seconds", "Time from the first byte of a request to the last of its answer.", ["endpoint"]
        )
        self.in_flight = gauge("odin_requests_in_flight", "Requests that are being answered.")
        self.queue = gauge("odin_queue_length", "Prompts that wait for a batch.")
        self.capacity = gauge("odin_queue_capacity", "Prompts that may wait.")
        self.capacity.set(queue_size)
        self.queue_seconds = seconds("odin_queue_seconds", "Time that a prompt waited for its batch.")
        self.batch = Histogram("odin_batch_size", "Prompts decoded together.", buckets=_SIZES, registry=registry)
        self.decoders = gauge(
            "odin_decoders", "Threads or processes that decode; process_* metrics leave such processes out."
        )
        self.tokens = counter("odin_generated_tokens", "Tokens written; its rate is tokens per second.")
        self.outputs = counter("odin_outputs", "Outputs, whether valid or not.")
        self.invalid = counter(
            "odin_invalid_outputs",
            "Outputs that were cut by the token budget (unfinished), break the format (malformed), or name an entity "
            "that the text does not hold (ungrounded).",
            ["reason"],
        )
        self.found = {
            kind: counter(f"odin_{kind}", f"{kind.capitalize()} by type; a shift means drift.", ["type"])
            for kind in model.task.labels("")
        }
        self.refused = counter(
            "odin_refused_requests", "Requests refused with 429, by reason: queue_full or rate_limit.", ["reason"]
        )
        self.cancelled = counter("odin_cancelled_prompts", "Prompts whose client went or timed out.")
        self.ready = gauge("odin_ready", "Whether the last canary was answered; NaN before the first one.")
        self.ready.set(math.nan)  # 0 would be an alert where nobody asks /ready
        self.model = gauge("odin_model_info", "The model that is served.", ["digest", "source", "base"])
        self.model.labels(model.digest, model.source, model.base.name).set(1)
        self.created = gauge("odin_model_created_timestamp_seconds", "When the model's weights were made.")
        self.created.set(model.created)
        for kind, value in model.metrics.items():
            gauge(f"odin_model_{kind}", f"{kind} of the model on its test set.").set(value)

    def observe(self, reading: Reading, outputs: list[Generation]) -> None:
        """Count what was read from one text."""
        self.outputs.inc(len(outputs))
        self.tokens.inc(sum(output.tokens for output in outputs))
        reasons = {
            "unfinished": sum(not output.finished for output in outputs),
            "malformed": sum(bool(self._task.faults(output.text)) for output in outputs),
            "ungrounded": int(reading.ungrounded),
        }
        for reason, number in reasons.items():
            self.invalid.labels(reason).inc(number)
        for kind, labels in reading.labels().items():
            for label in labels:
                self.found[kind].labels(label).inc()


def trace(app: Any, environment: Mapping[str, str]) -> bool:
    """Send a span of every request to the collector that the environment names.

    The variables are OpenTelemetry's own (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables):
    ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER``, and
    ``OTEL_SDK_DISABLED=true`` to switch it off. Spans hold method, route and status, never a body.

    Returns:
        Whether tracing is on.
    """
    if not any(environment.get(name) for name in _ENDPOINTS) or environment.get("OTEL_SDK_DISABLED") == "true":
        return False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "odin-slm"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls="health,ready,metrics", exclude_spans=["receive", "send"]
    )
    _log.info("tracing")
    return True
