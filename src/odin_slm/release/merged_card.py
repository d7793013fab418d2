"""The card of merged weights, and how to run them in llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from odin_slm.release.cards import LANGUAGE, fill, license_fields
from odin_slm.release.facts import BaseFacts
from odin_slm.tasks import Task

GGUF_TYPES = {"bfloat16": "bf16", "float16": "f16"}
"""Data type of merged weights -> the format of a GGUF file that rounds nothing of them."""


@dataclass(frozen=True)
class MergedFacts:
    """What the card says besides the scores; the files to make have its title as their name."""

    name: str
    experiment: str
    base: BaseFacts
    license: str
    task: Task
    license_name: str | None = None


def merged_card(facts: MergedFacts, report: Mapping[str, Any]) -> str:
    """Return the ``README.md`` of merged weights; where the report tells of GGUF, ``GGUF.md`` lies beside it."""
    from huggingface_hub import ModelCardData

    front_matter = ModelCardData(
        language=[LANGUAGE],
        **license_fields(facts.license, facts.license_name),
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=facts.base.id,
        base_model_relation="finetune",
        tags=[*facts.task.tags],
    ).to_yaml()
    return fill("merged_card.md.j2", facts=facts, report=report, front_matter=front_matter)


def gguf_instructions(facts: MergedFacts, report: Mapping[str, Any]) -> str:
    """Return how these weights are run in llama.cpp, and its commands for other formats.

    Source: ``docs/build.md``, ``convert_hf_to_gguf.py`` and ``tools/quantize/README.md`` of llama.cpp.
    """
    return fill("gguf.md.j2", facts=facts, report=report, kind=GGUF_TYPES[report["dtype"]])
