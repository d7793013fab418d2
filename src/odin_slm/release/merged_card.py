"""The card of merged weights, and the commands that make a GGUF file of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from odin_slm.release.cards import LANGUAGE, fill
from odin_slm.release.facts import BaseFacts
from odin_slm.tasks import Task


@dataclass(frozen=True)
class MergedFacts:
    """What the card says besides the scores; the files to make have its title as their name."""

    name: str
    experiment: str
    base: BaseFacts
    license: str
    task: Task


def merged_card(facts: MergedFacts, report: Mapping[str, Any], *, gguf: bool) -> str:
    """Return the ``README.md`` of merged weights; with ``gguf``, ``GGUF.md`` lies beside it."""
    from huggingface_hub import ModelCardData

    front_matter = ModelCardData(
        language=[LANGUAGE],
        license=facts.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=facts.base.id,
        base_model_relation="finetune",
        tags=[*facts.task.domain, *facts.task.tags],
    ).to_yaml()
    return fill("merged_card.md.j2", facts=facts, report=report, gguf=gguf, front_matter=front_matter)


def gguf_instructions(facts: MergedFacts, report: Mapping[str, Any]) -> str:
    """Return the commands of llama.cpp for these weights.

    Source: ``docs/build.md``, ``convert_hf_to_gguf.py`` and ``tools/quantize/README.md`` of llama.cpp.
    """
    kind = {"bfloat16": "bf16", "float16": "f16"}[report["dtype"]]
    return fill("gguf.md.j2", facts=facts, report=report, kind=kind)
