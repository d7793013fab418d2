"""Token ids of prompts and completions: the same in training, evaluation and length counts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from odin_slm.core.record import Record, full_text
from odin_slm.models.base_model import BaseModel, load_tokenizer

TokenCounter = Callable[[Sequence[str]], list[int]]
"""Counts the tokens of each of several texts."""
RecordCounter = Callable[[Sequence[Record]], list[int]]
"""Gives the length of each of several records in tokens."""

_PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")


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
    backend, tokenizer, _ = _backend(base)
    return _counter(backend, tokenizer)


def record_counter(base: BaseModel) -> RecordCounter:
    """Return a function that measures records in tokens as training does: BOS where there is one, text, and EOS."""
    backend, tokenizer, bos = _backend(base)
    count = _counter(backend, tokenizer)
    frame = bos + 1

    def lengths(records: Sequence[Record]) -> list[int]:
        counts = count([text for record in records for text in full_text(record)])
        return [prompt + completion + frame for prompt, completion in zip(counts[::2], counts[1::2], strict=True)]

    return lengths


def output_budget(base: BaseModel, golds: Sequence[str]) -> int:
    """Return a budget in tokens that every gold output fits in, with room for longer ones."""
    return math.ceil(max(token_counter(base)(golds)) * 1.25) + 16


def _backend(base: BaseModel) -> tuple[Any, Any, int]:
    """Return what tokenises fastest, the tokenizer where there is nothing faster, and the number of BOS tokens.

    A folder whose tokenizer class is the file ``tokenizer.json`` and nothing else needs no ``transformers``, whose
    import takes longer than most corpora.
    """
    config = json.loads((base.path / "tokenizer_config.json").read_text(encoding="utf-8")) if base.path else {}
    if base.path and config.get("tokenizer_class") in _PLAIN_CLASSES:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_file(str(base.path / "tokenizer.json"))
        bos = config.get("bos_token")
        bos_id = backend.token_to_id(bos["content"] if isinstance(bos, dict) else bos) if bos else None
        return backend, None, int(bos_id is not None and backend.encode("").ids[:1] == [bos_id])
    tokenizer = load_tokenizer(base)
    return getattr(tokenizer, "backend_tokenizer", None), tokenizer, len(prompt_ids(tokenizer, ""))


def _counter(backend: Any, tokenizer: Any) -> TokenCounter:
    def count(texts: Sequence[str]) -> list[int]:
        if backend is None:
            return [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        # in pieces: the ids of 100,000 texts would take gigabytes at once
        pieces = (texts[begin : begin + 1024] for begin in range(0, len(texts), 1024))
        return [len(e) for piece in pieces for e in backend.encode_batch_fast(piece, add_special_tokens=False)]

    return count
