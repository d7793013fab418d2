"""Grammars as llguidance reads them (Lark), apart from any model."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from odin_slm.core.errors import GrammarError


def literal(text: str) -> str:
    """Return a text as a terminal of Lark."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # DEL: JSON takes it as it is, Lark does not


def make_matcher(tokens: Any, lark: str) -> Any:
    """Return llguidance's matcher of a grammar over a vocabulary.

    Raises:
        GrammarError: llguidance cannot build the grammar.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(tokens, LLMatcher.grammar_from_lark(lark), log_level=0)
    check_matcher(matcher)
    return matcher


def check_matcher(matcher: Any) -> None:
    """Raise what llguidance only notes.

    Raises:
        GrammarError: The matcher is in its error state.
    """
    if matcher.is_error():
        raise GrammarError(
            f"llguidance cannot hold the output to its input ({matcher.get_error().strip()}).",
            fix="Set evaluation.decoding=free, or report the input.",
        )


def accepts(lark: str, output: str) -> bool:
    """Tell whether a grammar accepts a text, byte by byte: no model's tokens have a say in it."""
    matcher, written = make_matcher(_bytes(), lark), list(output.encode("utf-8"))
    return bool(matcher.try_consume_tokens(written) == len(written) and matcher.is_accepting())


@cache
def _bytes() -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))


class _Bytes:
    """A vocabulary of single bytes: what llguidance asks of a tokenizer."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)
