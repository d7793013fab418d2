"""Whether llguidance reads a tokenizer as the tokenizer writes: tried in milliseconds, before anything is generated."""

from __future__ import annotations

from typing import Any

from odin_slm.core.errors import BaseModelError, GrammarError
from odin_slm.tasks.lark import check_matcher, literal, make_matcher

_TOKENS = 512
"""Tokens of a vocabulary that are compared, next to those of the example."""
_HEADING = "### Found:\n"
_EXAMPLE = (
    f"{_HEADING}1. [Drug] α-tocopherol (“vitamin E”), 0.25 mg/day\n2. [Symptom] acute renal failure\n10. 5'-FU → IL-2\n"
)
_LARK = f'start: {literal(_HEADING)} LINE+\nLINE: /[1-9][0-9]{{0,2}}\\. / /[^\\n]+/ "\\n"\n'


def probe_tokenizer(tokenizer: Any, tokens: Any = None) -> None:
    """Compare tokens byte by byte, and hold an example output to a grammar token by token.

    llguidance guesses from a tokenizer's decoder how its tokens are to be read. Of a byte-level tokenizer with the
    decoder of another kind it takes the letters that stand for bytes for themselves, and refuses, in the middle of an
    output, what the model is bound to write.

    Args:
        tokenizer: A fast tokenizer of transformers.
        tokens: The same as llguidance has it (``LLTokenizer``); None makes it, which takes up to a second.

    Raises:
        BaseModelError: They differ; it names the tokenizer and a token.
    """
    if tokens is None:
        from llguidance.hf import from_tokenizer

        tokens = from_tokenizer(tokenizer)
    anchor, *_ = tokenizer("a", add_special_tokens=False)["input_ids"]  # some decoders strip the first token
    written: list[int] = tokenizer(_EXAMPLE, add_special_tokens=False)["input_ids"]
    known = len(tokenizer)
    sample = {*written, *range(0, known, max(1, known // _TOKENS))} - set(tokenizer.added_tokens_decoder)

    def decoded(ids: list[int]) -> str:
        text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    before = decoded([anchor])
    for token in sorted(sample):
        text, read = decoded([anchor, token])[len(before) :], tokens.decode_bytes([token])
        if "\ufffd" not in text and text.encode() != read:  # a part of a character is no text by itself
            name = tokenizer.convert_ids_to_tokens(token)
            raise _unfit(tokenizer, f"its token {token} ({name!r}) writes {text!r}, and llguidance reads {read!r}")
    if tokens.decode_bytes(written) != _EXAMPLE.encode():
        raise _unfit(tokenizer, f"its tokens of {_EXAMPLE!r} read {tokens.decode_bytes(written)!r}")
    matcher = make_matcher(tokens, _LARK)
    for number, token in enumerate(written):
        matcher.consume_token(token)
        try:
            check_matcher(matcher)
        except GrammarError as error:
            raise _unfit(tokenizer, f"after {decoded(written[:number])!r} it refuses token {token}") from error


def _unfit(tokenizer: Any, what: str) -> BaseModelError:
    return BaseModelError(
        f"llguidance reads this tokenizer otherwise than it writes, so no grammar can hold its output: {what}.",
        where=str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__),
        fix="Take the tokenizer.json that the base's maker published (one that was converted may have the wrong "
        "decoder; `kedro base fetch` and base_model=FILE.gguf make a checked one), or set evaluation.decoding=free.",
    )
