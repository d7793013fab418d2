"""Bases for training by Unsloth and in 4 bits on a CPU, and programs in processes of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT
from odin_slm.core.record import Record
from odin_slm.models.base_model import BaseModel

PRETRAINED = ROOT / "data/06_models/smollm2-135m-instruct"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder where Unsloth is not installed."""
    if importlib.util.find_spec("unsloth") is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(
                    pytest.mark.skip(reason="unsloth is not installed; make test-unsloth installs and tests it")
                )


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> BaseModel:
    """SmolLM2-135M where `make base` has fetched it, else the random base of the tests."""
    folder = PRETRAINED if PRETRAINED.is_dir() else tiny_base
    return BaseModel(str(folder), folder)


@pytest.fixture(scope="session")
def records() -> Callable[[int, int], list[Record]]:
    """Make so many records from a number on, of different lengths."""

    def make(count: int, start: int) -> list[Record]:
        return [
            Record(
                instruction="Extract entities: Drug, Symptom. Relations: causes.",
                input=f"Patient {n} had nausea after aspirin" + " and then slept well" * (n % 3) + ".",
                output="### Entities:\n1. [Symptom] nausea\n2. [Drug] aspirin\n\n"
                "### Relations:\n1. aspirin --[causes]--> nausea",
                id=f"ade-{n}",
                source="ade",
                document_id=f"ade-{n}",
            )
            for n in range(start, start + count)
        ]

    return make


@pytest.fixture(scope="session")
def program() -> Callable[..., None]:
    """Run a program of this folder in a process of its own: Unsloth changes transformers, PEFT and TRL for good."""

    def run(name: str, *words: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name(name)), *words]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-4000:]

    return run
