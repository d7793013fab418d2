"""Settings of the service: every one an option of ``python -m odin_slm.serving`` and an environment variable."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from odin_slm.config.parameters.base import Precision
from odin_slm.core.errors import ServingError

KEYS_VARIABLE = "ODIN_SLM_API_KEYS"
_KEY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]{0,63}):(?P<hash>[0-9a-f]{64})")


class ServingSettings(BaseModel):
    """What can be set: ``queue_size`` by the option ``--queue-size`` or the variable ``ODIN_SLM_QUEUE_SIZE``."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)

    model: str = "models:/odin-medical-ner-re@champion"
    """Adapter or base by folder, release folder, Hub id, models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/PATH."""
    base_model: str | None = None
    """Base of the adapter by folder or Hub id, where the adapter's configuration does not name it."""
    digest: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    """Refuse to start unless base and adapter have this digest; /model shows it."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    engine: Literal["local", "vllm"] = "local"
    """Who decodes: PyTorch on this machine, or vLLM, in this process or on a server."""
    vllm_url: str = ""
    """Address of a vLLM server, as http://127.0.0.1:8001; empty: vLLM runs in this process."""
    vllm_model: str = "odin"
    """Name under which the vLLM server serves the model."""
    decoders: Literal["auto", "threads", "processes"] = "auto"
    """What decodes a batch: a thread, or a process; auto takes processes for weights up to 256 MiB on a CPU."""
    workers: int = Field(default=0, ge=0, le=256)
    """Batches that are decoded at once; 0 takes one per core on a CPU, one on a GPU."""
    batch_size: int = Field(default=32, ge=1, le=1024)
    """Prompts decoded together, at most."""
    precision: Precision = "fp32"
    """Arithmetic of the layers' products on a CPU: fp32, bf16, or auto, which takes the faster. vLLM has its own."""
    batch_wait_ms: float = Field(default=4.0, ge=0.0, le=1000.0)
    """How long a batch that is not full waits for more prompts."""
    queue_size: int = Field(default=64, ge=1, le=100_000)
    """Prompts that may wait; further requests get 429."""
    timeout_s: float = Field(default=120.0, gt=0.0, le=3600.0)
    """Seconds until a request is given up with 503."""
    drain_s: int = Field(default=60, ge=0, le=3600)
    """Seconds that accepted requests have to end after SIGTERM."""
    max_new_tokens: int = Field(default=256, ge=8, le=8192)
    """Budget of an output in tokens."""
    window_tokens: int = Field(default=320, ge=32, le=100_000)
    """Tokens of a window of /extract."""
    overlap: int = Field(default=1, ge=0, le=10)
    """Sentences that neighbouring windows share."""
    max_texts: int = Field(default=32, ge=1, le=10_000)
    """Texts of one /predict request, at most."""
    max_windows: int = Field(default=32, ge=1, le=10_000)
    """Windows of one /extract request, at most."""
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    """Size of a request's body, at most."""
    rate_limit: str = ""
    """Requests per API key, or per address where there are no keys, as in 600/minute; empty: no limit."""
    rate_limit_storage: str = "memory://"
    """Where the counts are kept; redis://HOST:6379 makes replicas share them. Out of its reach, each counts alone."""
    review: str = ""
    """Queue to correct at /review, as the review pipeline writes it (queue.jsonl); empty: there is no such page."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""

    @field_validator("vllm_url")
    @classmethod
    def _names_a_server(cls, url: str) -> str:
        import httpx

        try:
            found = httpx.URL(url)
        except httpx.InvalidURL:
            found = None
        if url and not (found and found.scheme in ("http", "https") and found.host):
            raise ValueError("expected an address as http://127.0.0.1:8001.")  # without it: it may hold a password
        return url.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _requests_fit_the_queue(self) -> ServingSettings:
        for name in ("max_texts", "max_windows"):
            if getattr(self, name) > self.queue_size:
                raise ValueError(f"{name} ({getattr(self, name)}) must not exceed queue_size ({self.queue_size}).")
        return self


class ApiKeys:
    """API keys by the SHA-256 of each.

    A key is 256 random bits (``python -m odin_slm.serving new-key NAME``), so that a plain hash cannot be searched.

    Args:
        written: ``NAME:SHA256`` pairs, separated by commas or white space.

    Raises:
        ServingError: A pair is malformed, or a name occurs twice.
    """

    def __init__(self, written: str = "") -> None:
        self._hashes: dict[str, str] = {}
        for number, pair in enumerate(re.split(r"[,\s]+", written.strip()) if written.strip() else [], start=1):
            match = _KEY.fullmatch(pair)
            if not match or match["name"] in self._hashes:
                raise ServingError(
                    "expected NAME:SHA256, each name once.",
                    where=f"{KEYS_VARIABLE}, entry {number}",
                    fix="Make one by `python -m odin_slm.serving new-key NAME`.",
                )
            self._hashes[match["name"]] = match["hash"]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> ApiKeys:
        """Read the keys from the environment."""
        return cls(environment.get(KEYS_VARIABLE, ""))

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def name_of(self, key: str) -> str | None:
        """Return whose key it is, in a time that does not depend on the key; None for an unknown one."""
        given = hash_key(key)
        found = [name for name, known in self._hashes.items() if hmac.compare_digest(given, known)]
        return found[0] if found else None


def hash_key(key: str) -> str:
    """Return what the environment holds for a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
