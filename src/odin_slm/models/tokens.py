"""Token ids of prompts and completions: the same in training, evaluation and length counts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from odin_slm.core.hashing import sha256_of_files, short_digest
from odin_slm.core.record import Record, full_text
from odin_slm.models.base_model import BaseModel, load_tokenizer
from odin_slm.models.text_encoder import TextEncoder, prompt_of, text_encoder

TokenCounter = Callable[[Sequence[str]], list[int]]
"""Counts the tokens of each of several texts."""
RecordCounter = Callable[[Sequence[Record]], list[int]]
"""Gives the length of each of several records in tokens."""

_known: dict[bytes, int] = {}
"""Digest of a vocabulary and a record -> tokens: ingestion, statistics and training count the same records."""
_PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return a prompt's token ids, led by BOS where the tokenizer puts one before every text.

    Prompt and completion are tokenised apart, so that the ids a model is trained after are those it is asked with. What
    instruction and input spell is text, see :mod:`odin_slm.models.text_encoder`.
    """
    ids = text_encoder(tokenizer).encode(prompt_of(prompt))
    if tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return [tokenizer.bos_token_id, *ids]
    return ids


def completion_ids(tokenizer: Any, output: str) -> list[int]:
    """Return a completion's token ids with the end-of-sequence token."""
    return [*text_encoder(tokenizer).encode([(output, "output")]), tokenizer.eos_token_id]


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an output: the tokenizer's, and what else the model's generation configuration names.

    Llama 3 names three; one that the model has no logit for cannot be written.
    """
    configured = model.generation_config.eos_token_id
    known = configured if isinstance(configured, list) else [configured]
    size = model.get_output_embeddings().out_features
    return frozenset(token for token in (tokenizer.eos_token_id, *known) if token is not None and token < size)


def line_break_counter(tokenizer: Any) -> Callable[[int], int]:
    """Return a function that counts the line breaks in the text of a token."""

    @cache
    def count(token: int) -> int:
        text: str = tokenizer.decode([token], skip_special_tokens=True)
        return text.count("\n")

    return count


def token_counter(base: BaseModel) -> TokenCounter:
    """Return a function that counts the tokens of each of several texts with the base's tokenizer."""
    encoder, *_ = _encoder(base)
    return lambda texts: encoder.lengths([[(text, "text")] for text in texts])


def record_counter(base: BaseModel, known: dict[bytes, int] = _known) -> RecordCounter:
    """Return a function that measures records in tokens as training does: BOS where there is one, text, and EOS.

    What it has counted it keeps in ``known``, 140 bytes a record, and does not count again with the same vocabulary;
    :func:`remember` takes over what another process has counted.
    """
    encoder, bos, vocabulary = _encoder(base)

    def counted(texts: Sequence[tuple[str, str]]) -> list[int]:
        prompts = encoder.lengths([prompt_of(prompt) for prompt, _ in texts])
        completions = encoder.lengths([[(completion, "output")] for _, completion in texts])
        return [bos + prompt + completion + 1 for prompt, completion in zip(prompts, completions, strict=True)]

    def lengths(records: Sequence[Record]) -> list[int]:
        texts = [full_text(record) for record in records]
        if not vocabulary:
            return counted(texts)
        digests = [short_digest(f"{vocabulary}{len(prompt)} {prompt}{completion}") for prompt, completion in texts]
        unknown = {digest: pair for digest, pair in zip(digests, texts, strict=True) if digest not in known}
        known.update(zip(unknown, counted(list(unknown.values())), strict=True))
        return [known[digest] for digest in digests]

    return lengths


def remember(known: dict[bytes, int]) -> None:
    """Keep lengths that :func:`record_counter` has counted in another process."""
    _known.update(known)


def output_budget(base: BaseModel, golds: Sequence[str]) -> int:
    """Return a budget in tokens that every gold output fits in, with room for longer ones."""
    encoder, *_ = _encoder(base)
    return math.ceil(max(encoder.lengths([[(gold, "output")] for gold in golds])) * 1.25) + 16


def _encoder(base: BaseModel) -> tuple[TextEncoder, int, str]:
    """Return the fastest encoder of a base's texts, the number of BOS tokens before a prompt, and a vocabulary's hash.

    A folder whose tokenizer class is the file ``tokenizer.json`` and nothing else needs no ``transformers``, whose
    import takes longer than most corpora; of other tokenizers the hash is empty.
    """
    config = json.loads((base.path / "tokenizer_config.json").read_text(encoding="utf-8")) if base.path else {}
    if base.path and config.get("tokenizer_class") in _PLAIN_CLASSES:
        from tokenizers import Tokenizer

        files = [base.path / "tokenizer_config.json", base.path / "tokenizer.json"]
        try:
            backend = Tokenizer.from_file(str(files[1]))
        except Exception:  # tokenizers raises no narrower one; what names the reason comes below
            return _encoder_of(base)
        backend.no_truncation()
        backend.no_padding()
        bos = config.get("bos_token")
        bos_id = backend.token_to_id(bos["content"] if isinstance(bos, dict) else bos) if bos else None
        led = bos_id is not None and backend.encode("a").ids[:1] == [bos_id]
        return TextEncoder(backend), int(led), sha256_of_files(files)
    return _encoder_of(base)


def _encoder_of(base: BaseModel) -> tuple[TextEncoder, int, str]:
    tokenizer = load_tokenizer(base)
    return text_encoder(tokenizer), len(prompt_ids(tokenizer, "")), ""
