"""``generate`` of transformers under grammars, for a model whose kernels take no key-value cache but their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from odin_slm.inference.decoding.constraint import Constraint, Vocabulary
from odin_slm.models.tokens import end_tokens, prompt_ids
from odin_slm.tasks.grammar import Grammar


def constrained_generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    grammars: Sequence[Grammar | None],
    batch_size: int,
    max_new_tokens: int,
) -> list[str]:
    """Write the most likely output after every prompt; slower than :func:`odin_slm.inference.generation.generate`.

    Args:
        model: A causal model, or a PEFT model around one, in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Prompts.
        grammars: For every prompt the grammar that holds its output, or None.
        batch_size: Rows decoded together.
        max_new_tokens: Budget of an output.

    Returns:
        One text per prompt. Where a grammar held it, it follows the format even if the budget cut it off.
    """
    ends = sorted(end_tokens(model, tokenizer))
    vocabulary = Vocabulary(tokenizer, model.get_output_embeddings().out_features, ends)
    device = next(model.parameters()).device
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    texts: list[str] = []
    for begin in range(0, len(prompts), batch_size):
        rows = [prompt_ids(tokenizer, prompt) for prompt in prompts[begin : begin + batch_size]]
        width = max(len(row) for row in rows)
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        constraints = [
            Constraint(vocabulary, grammar) if grammar else None for grammar in grammars[begin : begin + len(rows)]
        ]
        processor = _GrammarProcessor(vocabulary, constraints, width, ends)
        with torch.no_grad():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=settings,
                logits_processor=LogitsProcessorList([processor]),
            )
        texts += [processor.text(place, output[place, width:].tolist(), tokenizer) for place in range(len(rows))]
    return texts


class _GrammarProcessor(LogitsProcessor):
    """Masks what the grammars of a batch forbid.

    Args:
        vocabulary: The model's tokens.
        constraints: One per row; None for a row that is free.
        width: Tokens of the padded prompts.
        ends: The tokens that end an output.
    """

    def __init__(
        self, vocabulary: Vocabulary, constraints: list[Constraint | None], width: int, ends: list[int]
    ) -> None:
        self._vocabulary, self._constraints, self._width, self._ends = vocabulary, constraints, width, ends
        self._taken = 0
        self._ended = [False] * len(constraints)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Take the tokens that were chosen last, and forbid what may not follow them."""
        written = input_ids[:, self._width :].tolist()
        for place, tokens in enumerate(written):
            self._take(place, tokens)
        self._taken = len(written[0])
        for place, constraint in enumerate(self._constraints):
            if constraint is None or self._ended[place]:
                continue
            if constraint.closed:
                allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
                allowed[self._ends] = True
            else:
                allowed = torch.from_numpy(self._vocabulary.allowed([constraint]).wide()[0].copy())
            scores[place] = scores[place].masked_fill(~allowed.to(scores.device), -torch.inf)
        return scores

    def text(self, place: int, tokens: list[int], tokenizer: Any) -> str:
        """Return a row's whole output."""
        constraint = self._constraints[place]
        if constraint is None:
            decoded: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            return decoded
        self._take(place, tokens)
        return constraint.text if self._ended[place] or constraint.closed else constraint.complete_text

    def _take(self, place: int, tokens: list[int]) -> None:
        """Give a row's constraint what it has not seen yet; after its end a row holds padding."""
        constraint = self._constraints[place]
        for token in tokens[self._taken :] if constraint else ():
            if self._ended[place] or constraint is None or constraint.closed:
                return
            if token in self._ends:
                self._ended[place] = True
            else:
                constraint.consume(token)
