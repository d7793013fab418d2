"""Decoding under a grammar: a model's vocabulary as llguidance reads it, and the grammar's state in each row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from odin_slm.inference.decoding.list_ends import ListEnds
from odin_slm.models.tokenizer_probe import probe_tokenizer
from odin_slm.tasks.grammar import Grammar
from odin_slm.tasks.lark import check_matcher, literal, make_matcher

if TYPE_CHECKING:
    import numpy
    import torch

_LONG = 8
"""Characters of a token, as far as a draft is concerned."""
_FEW = 8
"""The share of the vocabulary below which gathering the rows of the head is worth it, as one in so many."""


class Vocabulary:
    """A model's tokens as llguidance reads them; one per model, as building it takes up to a second.

    Args:
        tokenizer: A fast tokenizer of transformers.
        size: Number of the model's logits.
        end_tokens: Ids that end a text.

    Raises:
        BaseModelError: llguidance reads the tokenizer otherwise than it writes.
    """

    def __init__(self, tokenizer: Any, size: int, end_tokens: Sequence[int]) -> None:
        from llguidance import LLExecutor
        from llguidance.hf import from_tokenizer

        self.tokens = from_tokenizer(tokenizer, n_vocab=max(size, len(tokenizer)), eos_token=list(end_tokens))
        probe_tokenizer(tokenizer, self.tokens)
        self.size = size
        self.ends = frozenset(end_tokens)
        spelled = ((token, self.tokens.decode_bytes([token])) for token in range(len(tokenizer)))
        self.newlines = {token: spelling for token, spelling in spelled if b"\n" in spelling}
        """Tokens with a line break in them, and what they spell."""
        self._executor = LLExecutor()

    def allowed(self, constraints: Sequence[Constraint]) -> Allowed:
        """Return which tokens may come next under every constraint.

        Raises:
            GrammarError: llguidance cannot tell.
        """
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

        bits = allocate_token_bitmask(len(constraints), self.tokens.vocab_size)
        fill_next_token_bitmask_par(self._executor, [(c.matcher, row) for row, c in enumerate(constraints)], bits)
        for constraint in constraints:
            constraint.check()
        return Allowed(bits, self.size)


class Allowed:
    """Which tokens may come next, in each row of a batch.

    Args:
        bits: As llguidance writes them, 32 tokens a number, shape (rows, numbers).
        size: Number of the model's logits.
    """

    def __init__(self, bits: numpy.ndarray[Any, Any], size: int) -> None:
        import numpy

        self._bits, self._size = bits, size
        self.tokens: numpy.ndarray[Any, Any] = numpy.flatnonzero(_unpacked(numpy.bitwise_or.reduce(bits)[None], size))
        """Tokens that some row may write, in their order."""

    @property
    def few(self) -> bool:
        """Whether it is less work to compute the logits of :attr:`tokens` alone."""
        return len(self.tokens) * _FEW < self._size

    def narrow(self) -> numpy.ndarray[Any, Any]:
        """Return booleans of shape (rows, tokens): who may write which of :attr:`tokens`."""
        narrow: numpy.ndarray[Any, Any] = (self._bits[:, self.tokens >> 5] >> (self.tokens & 31)) & 1
        return narrow.astype(bool)

    def wide(self) -> numpy.ndarray[Any, Any]:
        """Return booleans of shape (rows, model's logits)."""
        return _unpacked(self._bits, self._size)


def _unpacked(bits: numpy.ndarray[Any, Any], size: int) -> numpy.ndarray[Any, Any]:
    import numpy

    # llguidance.torch would compile a kernel for this; unpacking 32 x 128k bits takes numpy two milliseconds.
    return numpy.unpackbits(bits.view(numpy.uint8), axis=1, bitorder="little", count=size).view(bool)


class Constraint:
    """The grammar's state in one row of a batch.

    Args:
        vocabulary: The model's tokens.
        grammar: What the row may say.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar) -> None:
        self.closed = False
        """Whether the row is complete although the model has not ended it."""
        self._vocabulary = vocabulary
        self._grammar = grammar
        self._written: list[int] = []
        self._phase = 0
        self.list_ends = ListEnds(vocabulary, grammar) if grammar.biased else None
        """What biases the ends of its lists, if anything does."""
        self.matcher = make_matcher(vocabulary.tokens, grammar.lark())
        self._ahead: list[int] = []

    def forced(self) -> int | None:
        """Return the one token that may come next; None where the model has a choice, or the output has ended.

        It is what the mask would have left, alone. The model is not asked, and the token has the probability 1.
        """
        if not self._ahead and not self.closed:
            self._ahead = self.matcher.compute_ff_tokens()[::-1]
        return self._ahead[-1] if self._ahead else None

    def draft(self, most: int) -> list[int]:
        """Return up to so many tokens that probably follow; none where the grammar does not know."""
        if most < 1 or self.closed or not self._grammar.repeats:
            return []
        tokens: list[int] = self._vocabulary.tokens.tokenize_str(self._grammar.likely(self.text)[: most * _LONG])
        return tokens[:most]

    def owed(self) -> float:
        """Return what a forced token has of log-probability: 0, or what :meth:`weigh` has left to the next token."""
        return self.list_ends.settled() if self.list_ends else 0.0

    def weigh(
        self, token: int, log_probability: float, scores: torch.Tensor, ids: numpy.ndarray[Any, Any] | None
    ) -> tuple[int, float]:
        """Weigh the token of the highest score again where it ends a list, or goes on with it.

        Args:
            token: The token.
            log_probability: Of it, among those that the grammar allows.
            scores: Logits of the row, -inf where the grammar forbids a token.
            ids: The tokens that they belong to; None for all in their order.

        Returns:
            The token to write, and what its line gains of log-probability.
        """
        if self.list_ends is None:
            return token, log_probability
        at_begin = not self._written or self._vocabulary.newlines.get(self._written[-1], b"").endswith(b"\n")
        return self.list_ends.weigh(token, log_probability, scores, ids, at_begin, lambda: self.text)

    @property
    def text(self) -> str:
        """The text written so far; of a closed row, the text without the line that it was about to start."""
        text: str = self._vocabulary.tokens.decode_str(self._written)
        return text[: text.rindex("\n")] if self.closed else text

    @property
    def complete_text(self) -> str:
        """The text written so far as a whole output."""
        return self._grammar.complete(self.text)

    def consume(self, token: int) -> None:
        """Take the token that the model chose; it must be one that the mask allowed.

        Raises:
            GrammarError: llguidance refuses the token.
        """
        self.matcher.consume_token(token)
        self.check()
        if self._ahead and self._ahead.pop() != token:
            self._ahead = []
        self._written.append(token)
        if token in self._vocabulary.newlines and (step := self._grammar.step(self._phase, self.text)):
            self.closed = step.closed
            if step.lark:
                self._phase += 1
            if lark := step.lark or (step.forced and f"start: {literal(step.forced)}\n"):
                self.matcher, self._ahead = make_matcher(self._vocabulary.tokens, lark), []

    def check(self) -> None:
        """Raise what llguidance only notes.

        Raises:
            GrammarError: The matcher is in its error state.
        """
        check_matcher(self.matcher)


def next_phase(grammar: Grammar, phase: int, text: str, begun: int = 0) -> tuple[str, str, bool]:
    """Go from one phase of a grammar to the next, where an engine writes each in a request of its own.

    Args:
        grammar: The grammar.
        phase: Number of the phase that the engine has written.
        text: All that is written.
        begun: Length of the text before that phase.

    Returns:
        The text, without what was written after a line at which the grammar would have stopped the model; the grammar
        of the next phase, empty where there is none; and whether the output is complete as it is.
    """
    for end in (match.end() for match in re.finditer("\n", text) if match.end() > begun):
        step = grammar.step(phase, text[:end])
        if step and step.closed:
            return text[: end - 1], "", True
        if step and step.forced:
            text = text[:end] + step.forced
            break
    step = grammar.step(phase, text)
    return text, step.lark if step else "", False
