"""A release of a few hundred bytes, and what a stranger can see of the Hub."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from safetensors.numpy import save

from canary import TOKEN
from hub_server import HubServer
from odin_slm.hub.client import Hub
from odin_slm.hub.credentials import Token
from odin_slm.hub.plan import Plan

Content = dict[str, bytes]

_MODEL_CARD = b"""---
language: [en]
license: apache-2.0
base_model: odin-slm/odin-nano
base_model_relation: adapter
library_name: peft
pipeline_tag: text-generation
---
# m
"""
_DATASET_CARD = b"""---
language: [en]
license: apache-2.0
pretty_name: d
task_categories: [token-classification]
size_categories: [n<1K]
configs: [{config_name: default, data_files: [{split: train, path: data/train.parquet}]}]
dataset_info: {splits: [{name: train, num_examples: 3, num_bytes: 3}]}
---
# d
"""


def model_files(value: float = 0.5, **changes: bytes | None) -> Content:
    config = {"base_model_name_or_path": "odin-slm/odin-nano", "task_type": "CAUSAL_LM"}
    files = {
        "README.md": _MODEL_CARD,
        "LICENSE": b"terms\n",
        "adapter_config.json": json.dumps(config).encode(),
        "tokenizer_config.json": b'{"model_max_length": 1024}',
        "adapter_model.safetensors": save({"layer.lora_A.weight": np.full((2, 2), value, dtype=np.float32)}),
        "base/config.json": b"{}",
    }
    return {name: content for name, content in {**files, **changes}.items() if content is not None}


def dataset_files(rows: int = 3) -> Content:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"id": [str(number) for number in range(rows)]}), sink)
    return {
        "README.md": _DATASET_CARD,
        "LICENSE": b"terms\n",
        "manifest.json": b'{"seed": 42}',
        "leakage.json": b"{}",
        "data/train.parquet": sink.getvalue(),
    }


def stage(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def plan(folder: Path, **changes: Any) -> Plan:
    options = {"kind": "model", "repo_id": "anna/odin", "private": True, "message": "Release", **changes}
    return Plan(folder=folder, **options)


def hub_of(server: HubServer, pause: Callable[[float], None], token: str = TOKEN) -> Hub:
    return Hub(server.endpoint, Token(token, "the test"), pause=pause)


def published(server: HubServer, kind: str, repo_id: str, revision: str = "main") -> Content:
    """Files of a repository at a revision, without the Hub's own."""
    repository = server.store.get(kind, repo_id)
    files = repository.commits[str(repository.resolve(revision))].files
    return {name: file.content for name, file in files.items() if name != ".gitattributes"}


def visible(server: HubServer) -> dict[str, Any]:
    """What a stranger sees: the files of every branch, tag and open pull request of the public repositories."""
    return {
        f"{kind} {name}": {
            ref: {path: file.content for path, file in repository.commits[oid].files.items()}
            for ref, oid in {**repository.branches, **repository.tags, **repository.pull_requests}.items()
            if ref not in repository.closed
        }
        for (kind, name), repository in server.store.repositories.items()
        if not repository.private
    }
