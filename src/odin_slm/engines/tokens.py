"""Token ids of prompts and completions: the same in training, evaluation and length counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from odin_slm.engines.base_model import BaseModel, load_tokenizer
from odin_slm.record import Record, full_text

TokenCounter = Callable[[Sequence[str]], list[int]]
"""Counts the tokens of each of several texts."""
RecordCounter = Callable[[Sequence[Record]], list[int]]
"""Gives the length of each of several records in tokens."""


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return a prompt's token ids, led by BOS where the tokenizer puts one before every text.

    Prompt and completion are tokenised apart, so that the ids a model is trained after are those it is asked with.
    """
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return [tokenizer.bos_token_id, *ids]
    return ids


def completion_ids(tokenizer: Any, output: str) -> list[int]:
    """Return a completion's token ids with the end-of-sequence token."""
    return [*tokenizer(output, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def line_break_counter(tokenizer: Any) -> Callable[[int], int]:
    """Return a function that counts the line breaks in the text of a token."""

    @cache
    def count(token: int) -> int:
        text: str = tokenizer.decode([token], skip_special_tokens=True)
        return text.count("\n")

    return count


def token_counter(base: BaseModel) -> TokenCounter:
    """Return a function that counts the tokens of each of several texts with the base's tokenizer."""
    return _counter(load_tokenizer(base))


def record_counter(base: BaseModel) -> RecordCounter:
    """Return a function that measures records in tokens as training does: BOS where there is one, text, and EOS."""
    tokenizer = load_tokenizer(base)
    count = _counter(tokenizer)
    frame = len(prompt_ids(tokenizer, "")) + 1

    def lengths(records: Sequence[Record]) -> list[int]:
        counts = count([text for record in records for text in full_text(record)])
        return [prompt + completion + frame for prompt, completion in zip(counts[::2], counts[1::2], strict=True)]

    return lengths


def output_budget(base: BaseModel, records: Sequence[Mapping[str, Any]]) -> int:
    """Return a budget in tokens that every gold output fits in, with room for longer ones; the same for any sample."""
    longest = max(token_counter(base)([record["output"] for record in records]))
    return math.ceil(longest * 1.25) + 16


def _counter(tokenizer: Any) -> TokenCounter:
    fast = getattr(tokenizer, "backend_tokenizer", None)

    def count(texts: Sequence[str]) -> list[int]:
        if fast is None:
            return [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        # in pieces: the ids of 100,000 texts would take gigabytes at once
        pieces = (texts[begin : begin + 1024] for begin in range(0, len(texts), 1024))
        return [len(e) for piece in pieces for e in fast.encode_batch_fast(piece, add_special_tokens=False)]

    return count
