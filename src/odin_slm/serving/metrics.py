"""What Prometheus scrapes; docs/reference/service.md lists it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from odin_slm.inference.generation import Generation
from odin_slm.inference.served_model import ServedModel
from odin_slm.tasks import Reading

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The service's metrics, in a registry of their own.

    Args:
        model: What is served.
        queue_size: Prompts that may wait.
    """

    def __init__(self, model: ServedModel, queue_size: int) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "odin_requests", "Requests by endpoint and status code.", ["endpoint", "status"], registry=registry
        )
        self.seconds = Histogram(
            "odin_request_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("odin_requests_in_flight", "Requests that are being answered.", registry=registry)
        self.queue = Gauge("odin_queue_length", "Prompts that wait for a batch.", registry=registry)
        self.capacity = Gauge("odin_queue_capacity", "Prompts that may wait.", registry=registry)
        self.capacity.set(queue_size)
        self.queue_seconds = Histogram(
            "odin_queue_seconds", "Time that a prompt waited for its batch.", buckets=_SECONDS, registry=registry
        )
        self.batch = Histogram("odin_batch_size", "Prompts decoded together.", buckets=_SIZES, registry=registry)
        self.decoders = Gauge(
            "odin_decoders",
            "Threads or processes that decode; process_* metrics leave such processes out.",
            registry=registry,
        )
        self.tokens = Counter(
            "odin_generated_tokens", "Tokens written; its rate is tokens per second.", registry=registry
        )
        self.outputs = Counter("odin_outputs", "Outputs, whether valid or not.", registry=registry)
        self.invalid = Counter(
            "odin_invalid_outputs",
            "Outputs that were cut by the token budget (unfinished), break the format (malformed), or name an entity "
            "that the text does not hold (ungrounded).",
            ["reason"],
            registry=registry,
        )
        self.found = {
            kind: Counter(
                f"odin_{kind}", f"{kind.capitalize()} by type; a shift means drift.", ["type"], registry=registry
            )
            for kind in model.task.labels("")
        }
        self.refused = Counter(
            "odin_refused_requests",
            "Requests refused with 429, by reason: queue_full or rate_limit.",
            ["reason"],
            registry=registry,
        )
        self.cancelled = Counter("odin_cancelled_prompts", "Prompts whose client went or timed out.", registry=registry)
        self.ready = Gauge("odin_ready", "Whether the last canary was answered.", registry=registry)
        self.model = Gauge(
            "odin_model_info", "The model that is served.", ["digest", "source", "base"], registry=registry
        )
        self.model.labels(model.digest, model.source, model.base.name).set(1)
        self.created = Gauge(
            "odin_model_created_timestamp_seconds", "When the model's weights were made.", registry=registry
        )
        self.created.set(model.created)
        for kind, value in model.metrics.items():
            Gauge(f"odin_model_{kind}", f"{kind} of the model on its test set.", registry=registry).set(value)

    def observe(self, reading: Reading, outputs: list[Generation]) -> None:
        """Count what was read from one text."""
        self.outputs.inc(len(outputs))
        self.tokens.inc(sum(output.tokens for output in outputs))
        reasons = {
            "unfinished": sum(not output.finished for output in outputs),
            "malformed": int(reading.malformed > 0),
            "ungrounded": int(reading.ungrounded),
        }
        for reason, number in reasons.items():
            self.invalid.labels(reason).inc(number)
        for kind, labels in reading.labels().items():
            for label in labels:
                self.found[kind].labels(label).inc()
