"""The tokenizer of a GGUF file, as ``tokenizers`` has it, proved on bytes.

A file holds the vocabulary and the merges, but of how text is cut before them only a name
(``tokenizer.ggml.pre``). Each name below stands for what the models of that name were trained with; llama.cpp has the
same in ``src/llama-vocab.cpp``. An unknown name is refused: with another cut a model reads tokens that it never saw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from odin_slm.models.sources.gguf_file import Gguf

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
"""Types of tokens (``llama_token_type`` of llama.cpp) besides the normal one."""
_TEXT_BYTES = frozenset({*b"\t\n\r", *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF1)})
"""Bytes that UTF-8 text has: none of its control characters, none of the planes of Unicode that nothing is in.

SmolLM2's vocabulary, for one, lacks six control characters and the lead bytes F1 and F2.
"""
ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
"""GGUF's name of a token's role -> that of transformers."""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")


def tokenizer_of(gguf: Gguf, context: int) -> Any:
    """Return the tokenizer, with the special tokens whose ids the file names, and its chat template.

    Args:
        gguf: The file.
        context: Tokens that the model reads.

    Raises:
        BaseModelError: It is no byte-level BPE, or is cut in a way that is not known here.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    fields = {key.removeprefix("tokenizer.ggml."): value for key, value in gguf.metadata.items()}
    kind, cut = fields.get("model"), fields.get("pre")
    if kind != "gpt2":
        raise gguf.error(f"its tokenizer is of the kind {kind!r}; byte-level BPE ('gpt2') is converted.")
    if cut not in CUTS:
        raise gguf.error(
            f"its text is cut the way {cut!r} (tokenizer.ggml.pre), which is not known here; {', '.join(CUTS)} are."
        )
    tokens: list[str] = fields["tokens"]
    rows = gguf.tensors["token_embd.weight"].shape[1]
    if not len(set(tokens)) == len(tokens) == rows:
        raise gguf.error(f"it lists {len(tokens)} tokens, {len(set(tokens))} different ones, for {rows} embeddings.")
    if lacking := _TEXT_BYTES - _written_bytes(tokens).keys():
        raise gguf.error(
            f"its vocabulary lacks {len(lacking)} of the bytes that text is made of, {min(lacking):#x} first."
        )
    types = fields.get("token_type") or [1] * len(tokens)
    try:
        model = models.BPE(  # embeddings that no token has are filled up with unused ones
            {token: number for number, token in enumerate(tokens) if types[number] != UNUSED},
            [tuple(merge.split(" ")) for merge in fields["merges"]],
            ignore_merges=cut == "llama-bpe",
        )
    except Exception as error:  # tokenizers raises no narrower one
        raise gguf.error(f"its merges do not fit its vocabulary ({error}).", "Fetch the file again.") from None
    tokenizer = Tokenizer(model)
    CUTS[cut](tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    for kind, add in ((CONTROL, tokenizer.add_special_tokens), (USER_DEFINED, tokenizer.add_tokens)):
        add([AddedToken(token, normalized=False) for token, of in zip(tokens, types, strict=True) if of == kind])
    roles = {role: number for name, role in ROLES.items() if (number := fields.get(f"{name}_token_id")) is not None}
    if wrong := [role for role, number in roles.items() if number >= len(tokens)]:
        raise gguf.error(f"its {wrong[0]} token has the id {roles[wrong[0]]}, of {len(tokens)} tokens.")
    if "eos" not in roles:
        raise gguf.error("its metadata name no end-of-sequence token (tokenizer.ggml.eos_token_id).")
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if fields.get("add_bos_token", cut == "llama-bpe") and "bos" in roles:  # left out, Llama 3 begins with it
        tokenizer.post_processor = _beginning_with(tokens[roles["bos"]], roles["bos"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        **{f"{role}_token": tokens[number] for role, number in roles.items()},
        **({"chat_template": template} if (template := gguf.metadata.get("tokenizer.chat_template")) else {}),
    )


def _beginning_with(token: str, number: int) -> Any:
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, number)]
    )


def check_tokenizer(gguf: Gguf, tokenizer: Any) -> None:
    """Prove a tokenizer that was saved and loaded again: special tokens, chat template, every byte, digits.

    Raises:
        BaseModelError: It is not the file's, or does not give back what it reads.
    """
    from llguidance.hf import from_tokenizer

    from odin_slm.models.tokenizer_probe import probe_tokenizer

    tokens = gguf.metadata["tokenizer.ggml.tokens"]
    for name, role in ROLES.items():
        number, found = gguf.metadata.get(f"tokenizer.ggml.{name}_token_id"), getattr(tokenizer, f"{role}_token_id")
        if number != found:
            raise gguf.error(f"its {role} token is {number}, and the tokenizer made of it has {found}.")
    if tokenizer.chat_template != gguf.metadata.get("tokenizer.chat_template"):
        raise gguf.error("the tokenizer made of it has another chat template.")
    vocabulary = from_tokenizer(tokenizer, n_vocab=len(tokens))
    probe_tokenizer(tokenizer, vocabulary)
    bytes_of = _written_bytes(tokens)
    bytes_of.pop(0xFF, None)  # no text has it, and llguidance marks special tokens with it
    read = {byte: vocabulary.decode_bytes([number]) for byte, number in bytes_of.items()}
    if read != {byte: bytes([byte]) for byte in bytes_of}:
        raise gguf.error("the tokenizer made of it does not write the bytes of its vocabulary.")
    for text in _texts(frozenset(bytes_of)):
        normalizer = tokenizer.backend_tokenizer.normalizer
        expected = normalizer.normalize_str(text) if normalizer else text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        written = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if written != expected or vocabulary.decode_bytes(ids) != expected.encode():
            raise gguf.error(f"the tokenizer made of it reads {expected[:40]!r} and writes {written[:40]!r}.")


def _written_bytes(tokens: list[str]) -> dict[int, int]:
    """Return byte -> the token that is this byte alone; a byte-level vocabulary writes it as a letter."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    number_of = {token: number for number, token in enumerate(tokens)}
    return {byte: number_of[letter] for byte, letter in bytes_to_unicode().items() if letter in number_of}


def _texts(known: frozenset[int]) -> list[str]:
    """Return texts with every byte of UTF-8 that a vocabulary has, and digits in every company."""
    leads = [*range(0x800, 0xD800, 0x400), *range(0xE000, 0x10000, 0x400), *range(0x10000, 0x110000, 0x8000)]
    return [
        "".join(letter for letter in map(chr, codes) if known.issuperset(letter.encode()))
        for codes in (range(0x800), leads)
    ] + ["1234567890 12 345 6,789.01 5-FU 5'-FU x2 IL-2 ½ ² ٣\t\n\n  0 mg\r\n 😀"]


def _gpt2(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)


def _smollm(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers

    single = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(single)


def _llama3(tokenizer: Any) -> None:
    _split(tokenizer, _LLAMA3)


def _qwen2(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.normalizer = normalizers.NFC()
    _split(tokenizer, _QWEN2)


def _split(tokenizer: Any, pattern: str) -> None:
    from tokenizers import Regex, pre_tokenizers

    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_only])


CUTS: dict[str, Callable[[Any], None]] = {
    "smollm": _smollm,
    "gpt-2": _gpt2,
    "llama-bpe": _llama3,
    "qwen2": _qwen2,
}
"""``tokenizer.ggml.pre`` -> what sets normalizer and pre-tokenizer."""
