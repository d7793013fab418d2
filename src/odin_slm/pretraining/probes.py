"""Probes of a base before any fine-tuning: copying marked spans, and extracting what a schema names."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import islice
from typing import Any

from odin_slm.core.errors import RecordTooLongError
from odin_slm.inference.generation import Generator, generate
from odin_slm.models.base_model import BaseModel
from odin_slm.pretraining.curriculum import EXERCISES, Example, Sources
from odin_slm.tasks.extraction.format import RELATIONS_HEADER

_MAX_NEW_TOKENS = 200
_TRIES = 20
"""Most draws per requested example; examples that exceed the context are skipped."""


def probe_base(base: BaseModel, held_out: Sources, *, kinds: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Let a base solve examples made from held-out texts, decoded without a grammar.

    Args:
        base: The base model.
        held_out: Texts on which it was not trained.
        kinds: Exercises (:data:`odin_slm.pretraining.curriculum.EXERCISES`), each with its number of examples.
        seed: Seed of the examples.

    Returns:
        For each exercise ``examples`` (fewer than requested if most texts exceed the context), ``names`` (in the gold
        outputs), and as shares ``identical_outputs``, ``name_recall``, ``name_precision`` and ``not_in_text``.
    """
    rng = random.Random(f"{seed}-probes")
    generator = Generator(base)

    def fits(example: Example) -> bool:
        try:
            return bool(generator.rows([example.prompt], max_new_tokens=_MAX_NEW_TOKENS))
        except RecordTooLongError:
            return False

    results = {}
    for kind, count in kinds.items():
        drawn = (EXERCISES[kind](held_out, rng) for _ in range(_TRIES * count))
        examples = list(islice(filter(fits, drawn), count))
        prompts = [example.prompt for example in examples]
        outputs = generate(base, None, prompts, batch_size=32, max_new_tokens=_MAX_NEW_TOKENS, loaded=generator)
        results[kind] = _score(examples, {output.index: output.text for output in outputs})
    return results


def _score(examples: list[Example], outputs: dict[int, str]) -> dict[str, float | int]:
    in_gold = in_predicted = correct = ungrounded = identical = 0
    for index, example in enumerate(examples):
        gold, predicted = _names(example.completion), _names(outputs[index])
        in_gold, in_predicted = in_gold + len(gold), in_predicted + len(predicted)
        correct += len(gold & predicted)
        ungrounded += sum(name.split("] ", 1)[-1] not in example.prompt for name in predicted)
        identical += outputs[index] == example.completion
    return {
        "examples": len(examples),
        "identical_outputs": round(identical / len(examples), 4) if examples else 0.0,
        "names": in_gold,
        "name_recall": round(correct / in_gold, 4) if in_gold else 0.0,
        "name_precision": round(correct / in_predicted, 4) if in_predicted else 0.0,
        "not_in_text": round(ungrounded / in_predicted, 4) if in_predicted else 0.0,
    }


def _names(output: str) -> set[str]:
    """Return the entities of an output as ``[Type] name``; the exercises use types outside the task's own."""
    entities = output.split(RELATIONS_HEADER)[0]
    return {line.split(". ", 1)[1] for line in entities.split("\n") if ". [" in line and "] " in line}
