"""The tokenizer of the embedded base: byte-level BPE, with the strings of the format as single tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from odin_slm.core.record import render_prompt
from odin_slm.tasks.extraction.format import ENTITIES_HEADER, RELATIONS_HEADER

EOS, PAD = "<|endoftext|>", "<|pad|>"
MARKERS = (
    *render_prompt("|", "|").split("|"),  # what stands around instruction and input
    f"{ENTITIES_HEADER}\n",
    f"\n\n{RELATIONS_HEADER}\n",
    ". [",
    " --[",
    "]-->",
)
"""Strings of the format that are one token each. None of them ends in a space, so a name keeps the leading space, and
therefore the tokens, that it has in running text."""


def train_tokenizer(texts: Iterable[str], vocabulary: int, context: int, folder: Path) -> None:
    """Train a tokenizer and save it in the format of ``transformers``.

    The alphabet contains every byte, so every text can be tokenised. The markers are single, non-special tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(MARKERS),
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
