"""Token ids of prompts and completions: the same in training, evaluation and length counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from odin_slm.engines.base_model import BaseModel, load_tokenizer


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


def token_counter(base: BaseModel) -> Callable[[list[str]], list[int]]:
    """Return a function that counts the tokens of each of several texts with the base's tokenizer."""
    tokenizer = load_tokenizer(base)

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    return count
