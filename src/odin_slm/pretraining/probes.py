"""What a fresh base can do before any fine-tuning: copy marked spans, and read out what a schema asks for."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import islice
from typing import Any

from odin_slm.core.errors import RecordTooLongError
from odin_slm.inference.generation import Generator, generate
from odin_slm.models.base_model import BaseModel
from odin_slm.pretraining.curriculum import EXERCISES, Example, Sources

_MAX_NEW_TOKENS = 200
_TRIES = 20
"""Examples drawn for each that is wanted, at most; those that do not fit into the context are passed over."""


def probe_base(base: BaseModel, held_out: Sources, *, kinds: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Let a base solve examples made of held-out text, free of any grammar.

    Args:
        base: The base model.
        held_out: Material that it was not trained on.
        kinds: Exercises of the curriculum (:data:`odin_slm.pretraining.curriculum.EXERCISES`), and how many examples of
            each.
        seed: Seed of the examples.

    Returns:
        For each exercise ``examples`` (fewer than were asked for where most texts exceed the context),
        ``identical_outputs`` (share), and of the listed names ``name_recall``, ``name_precision`` and ``not_in_text``
        (shares).
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
    wanted = found = right = foreign = identical = 0
    for index, example in enumerate(examples):
        gold, said = _names(example.completion), _names(outputs[index])
        wanted, found, right = wanted + len(gold), found + len(said), right + len(gold & said)
        foreign += sum(name.split("] ", 1)[-1] not in example.prompt for name in said)
        identical += outputs[index] == example.completion
    return {
        "examples": len(examples),
        "identical_outputs": round(identical / len(examples), 4) if examples else 0.0,
        "names": wanted,
        "name_recall": round(right / wanted, 4) if wanted else 0.0,
        "name_precision": round(right / found, 4) if found else 0.0,
        "not_in_text": round(foreign / found, 4) if found else 0.0,
    }


def _names(output: str) -> set[str]:
    """Return the listed entities of an output, as ``[Type] name``; types may be outside the closed set here."""
    entities = output.split("### Relations:")[0]
    return {line.split(". ", 1)[1] for line in entities.split("\n") if ". [" in line and "] " in line}
