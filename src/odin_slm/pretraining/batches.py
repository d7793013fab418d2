"""Batches for pretraining: examples drawn by the curriculum as token ids, with the weight of each token in the loss."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odin_slm.config.parameters import PhaseParams, ScheduleParams
from odin_slm.pretraining.curriculum import Example, Sources, draw
from odin_slm.tasks.extraction.format import ENTITIES_HEADER, RELATIONS_HEADER

if TYPE_CHECKING:
    import torch

_POOL_BATCHES = 16
_EVALUATION_EXAMPLES = 96


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example.

    Attributes:
        ids: Prompt, completion, end of sequence.
        prompt: Number of tokens in the prompt.
        decisions: Positions at which the completion decides what comes next.
        given: Positions of the completion that are read but not learned.
    """

    ids: list[int]
    prompt: int
    decisions: tuple[int, ...] = ()
    given: tuple[int, ...] = ()


def batches(
    sources: Sources,
    phases: Sequence[PhaseParams],
    encode: Callable[[Example], Encoded | None],
    schedule: ScheduleParams,
    *,
    skip: int = 0,
) -> Iterator[tuple[list[Encoded], PhaseParams]]:
    """Yield batches of examples of similar length, each with its phase, without end.

    Args:
        sources: The texts from which examples are drawn.
        phases: The phases of the schedule.
        encode: What :func:`encoder` returns.
        schedule: Size of a batch, length of the schedule, and seed.
        skip: Number of batches to draw and discard, when a run resumes.
    """
    mixtures = [phase.mixture.model_dump() for phase in phases]
    pool_number = drawn = 0
    while True:
        number = next((n for n, p in enumerate(phases) if drawn < p.until * schedule.tokens), len(phases) - 1)
        rng = random.Random(f"{schedule.seed}-{pool_number}")
        pool: list[Encoded] = []
        total = 0
        while total < schedule.batch_tokens * _POOL_BATCHES:
            encoded = encode(draw(sources, mixtures[number], rng))
            if encoded is not None:
                pool.append(encoded)
                total += len(encoded.ids)
        drawn += total
        found = _cut(pool, schedule.batch_tokens)
        rng.shuffle(found)
        for batch in found:
            if skip:
                skip -= 1
            else:
                yield batch, phases[number]
        pool_number += 1


def evaluation_batches(
    held_out: Sources,
    mixture: Mapping[str, float],
    encode: Callable[[Example], Encoded | None],
    schedule: ScheduleParams,
) -> list[list[Encoded]]:
    """Return batches drawn from held-out texts by all exercises of a mixture except ``language``."""
    rng = random.Random(f"{schedule.seed}-probe")
    shares = {kind: share for kind, share in mixture.items() if kind != "language"}
    drawn = [encode(draw(held_out, shares, rng)) for _ in range(_EVALUATION_EXAMPLES)]
    return _cut([encoded for encoded in drawn if encoded], schedule.batch_tokens)


def _cut(pool: list[Encoded], batch_tokens: int) -> list[list[Encoded]]:
    """Cut a pool, sorted by length, into batches of at most ``batch_tokens`` tokens, padding included."""
    cut: list[list[Encoded]] = [[]]
    for encoded in sorted(pool, key=lambda e: len(e.ids)):  # the newest in a batch is the longest
        if cut[-1] and (len(cut[-1]) + 1) * len(encoded.ids) > batch_tokens:
            cut.append([])
        cut[-1].append(encoded)
    return cut


def encoder(tokenizer: Any, context: int) -> Callable[[Example], Encoded | None]:
    """Return a function that encodes an example; None if it exceeds the context, or spells a special token."""
    special = frozenset(tokenizer.all_special_ids)

    def encode(example: Example) -> Encoded | None:
        prompt = tokenizer(example.prompt, add_special_tokens=False)["input_ids"] if example.prompt else []
        completion = tokenizer(example.completion, add_special_tokens=False, return_offsets_mapping=True)
        ids = [*prompt, *completion["input_ids"], tokenizer.eos_token_id]
        if len(ids) > context or not special.isdisjoint(ids[:-1]):
            return None
        spans = completion["offset_mapping"]
        begins = [begin for begin, _ in spans]
        chosen = {bisect_right(begins, place) - 1 for place in decisions(example.completion)} if prompt else set()
        places = [len(prompt) + i for i in sorted(chosen)]
        given = [
            len(prompt) + i
            for i, (begin, end) in enumerate(spans)
            if any(begin < last and first < end for first, last in example.given)
        ]
        places += [place + 1 for place in given if place + 1 not in given]  # where the output recovers from an error
        return Encoded(ids, len(prompt), (*places, len(ids) - 1) if prompt else (), tuple(given))

    return encode


_DECISIONS = re.compile(
    rf"(?<=^{ENTITIES_HEADER}\n)|(?<={RELATIONS_HEADER}\n)|(?<!:)(?=\n)"  # whether a list is empty, continues, or ends
    r"|(?<=^\d\. )(?!\[)|(?<=^\d\d\. )(?!\[)|(?<=\] )|(?<=\]--> )"  # which name comes next
    r"|(?<=\. \[)|(?<= --\[)",  # of which type it is
    re.MULTILINE,
)


def decisions(completion: str) -> list[int]:
    """Return the characters at which an output decides what comes next: a name, a type, or the end of a list.

    All other characters only spell out what was decided; they make up most of an output.
    """
    return [match.start() for match in _DECISIONS.finditer(completion)]


def tensors(
    batch: list[Encoded], pad: int, prompt_share: float, decision_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token ids of a batch and the weight of each token in the loss, both (examples, length).

    Padding is on the right, where causal attention ignores it. Computing logits over the vocabulary is a quarter of a
    small model's work, so only a share of the prompt's tokens is predicted. The draw is seeded by the tokens.
    """
    import torch

    length = max(len(e.ids) for e in batch)
    ids = torch.full((len(batch), length), pad)
    weights = torch.zeros((len(batch), length))
    for row, encoded in enumerate(batch):
        ids[row, : len(encoded.ids)] = torch.tensor(encoded.ids)
        if prompt_share:
            generator = torch.Generator().manual_seed(sum(encoded.ids))
            weights[row, : encoded.prompt] = (torch.rand(encoded.prompt, generator=generator) < prompt_share).float()
        weights[row, encoded.prompt : len(encoded.ids)] = 1.0
        weights[row, list(encoded.decisions)] = decision_weight
        weights[row, list(encoded.given)] = 0.0
    return ids, weights


def evaluation_tensors(batch: list[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, the weights of all completion tokens, and the weights of the decisions alone."""
    ids, completion = tensors(batch, pad, 0.0, 1.0)
    _, others = tensors(batch, pad, 0.0, 0.0)
    return ids, completion, completion - others
