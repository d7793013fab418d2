"""Texts as token ids: a text that spells the name of a control token is text, and no such token.

A tokenizer reads the names of its added tokens wherever they stand. ``<|endoftext|>`` in a user's text would end the
prompt from within, ``<|im_end|>`` a turn, and ``### Output:``, one token of the embedded base, would begin the output
in the middle of the text. Such tokens are read here only where the project's own format puts them; elsewhere their
names are read letter by letter.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

from odin_slm.core.record import prompt_parts

Kind = Literal["frame", "output", "text"]
"""A frame may hold every control token; an output those that are no special ones, as headings; a text none."""
Part = tuple[str, Kind]

_MARKER = re.compile(r"\s*(<.*\w.*>|\[.*\w.*\]|#+ .*\w.*)\s*", re.DOTALL)
_AT_ONCE = 1024
"""Texts encoded at once: the ids of 100,000 would take gigabytes."""
_SHARE = 64
"""Texts that are worth a thread."""


def is_control(token: Any) -> bool:
    """Tell whether an added token controls the model, so that no text may hold it.

    Special ones do, and those in brackets (``<tool_call>``) or under the signs of a heading (``### Output:``). Others,
    as runs of spaces or the words of a field, are text.
    """
    return bool(token.special or _MARKER.fullmatch(token.content))


class TextEncoder:
    """A tokenizer that reads control tokens only where the format puts them.

    Args:
        tokenizer: A tokenizer of transformers, or of tokenizers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._plain = not hasattr(tokenizer, "added_tokens_decoder")  # of tokenizers itself
        self._backend: Any = tokenizer if self._plain else getattr(tokenizer, "backend_tokenizer", None)
        added = tokenizer.get_added_tokens_decoder() if self._plain else tokenizer.added_tokens_decoder
        special = {number: token.content for number, token in added.items() if token.special}
        markers = {n: token.content for n, token in added.items() if n not in special and is_control(token)}
        self._controls = special | markers
        self._numbers = frozenset(self._controls)
        self._allowed = {"frame": _any_of(self._controls.values()), "output": _any_of(markers.values()), "text": None}

    def encode(self, parts: Sequence[Part]) -> list[int]:
        """Return the token ids of a text that is given in parts, without BOS and EOS."""
        whole = "".join(text for text, _ in parts)
        if self._plain:
            ids: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
        else:
            ids = self._tokenizer(whole, add_special_tokens=False)["input_ids"]
        return ids if self._is_right(ids, parts) else self._spelled(parts)

    def lengths(self, texts: Sequence[Sequence[Part]]) -> list[int]:
        """Return the numbers of tokens of several texts; faster than to encode one after the other."""
        return [length for begin in range(0, len(texts), _AT_ONCE) for length in self._some(texts[begin:][:_AT_ONCE])]

    def _some(self, texts: Sequence[Sequence[Part]]) -> Iterator[int]:
        if not self._plain:
            yield from (len(self.encode(parts)) for parts in texts)
            return
        wholes = ["".join(text for text, _ in parts) for parts in texts]
        encode = partial(self._tokenizer.encode_batch_fast, add_special_tokens=False)
        cores = min(os.cpu_count() or 1, len(texts) // _SHARE)
        if cores > 1:
            with ThreadPoolExecutor(cores) as pool:  # the library's own threads do not survive a fork
                found = list(pool.map(encode, (wholes[begin::cores] for begin in range(cores))))
        else:
            cores, found = 1, [encode(wholes)]
        for number, parts in enumerate(texts):
            encoding = found[number % cores][number // cores]
            yield len(encoding) if self._is_right(encoding.ids, parts) else len(self._spelled(parts))

    def _is_right(self, ids: Sequence[int], parts: Sequence[Part]) -> bool:
        if self._numbers.isdisjoint(ids):
            return True
        expected = sum(len(found.findall(text)) for text, kind in parts if (found := self._allowed[kind]))
        return expected == sum(map(self._numbers.__contains__, ids))

    def _spelled(self, parts: Sequence[Part]) -> list[int]:
        """Encode with control tokens under names that nobody knows, given only where they are allowed."""
        if self._backend is None:  # a tokenizer in Python; none of them has tokens of our frame
            whole = "".join(text for text, _ in parts)
            found: list[int] = self._tokenizer(whole, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            return found
        names, renamed = self._renamed
        given = (
            allowed.sub(lambda match: names[match[0]], text) if (allowed := self._allowed[kind]) else text
            for text, kind in parts
        )
        ids: list[int] = renamed.encode("".join(given), add_special_tokens=False).ids
        return ids

    @cached_property
    def _renamed(self) -> tuple[dict[str, str], Any]:
        """Content of every control token -> its other name, and the tokenizer that knows them by these alone."""
        from tokenizers import Tokenizer

        once = secrets.token_hex(8)
        names = {content: f"<{once}-{number}>" for number, content in self._controls.items()}
        state = json.loads(self._backend.to_str())
        state["truncation"] = state["padding"] = None
        for token in state["added_tokens"]:
            if token["content"] in names:
                token.update(content=names[token["content"]], normalized=False)
        model = state["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
        else:  # Unigram, whose pieces have scores
            model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        return names, Tokenizer.from_str(json.dumps(state))


def text_encoder(tokenizer: Any) -> TextEncoder:
    """Return the encoder of a tokenizer; there is one for each."""
    encoder = _encoders.get(tokenizer)
    if encoder is None:
        _encoders[tokenizer] = encoder = TextEncoder(tokenizer)
    return encoder


def prompt_of(text: str) -> list[Part]:
    """Return the parts of a prompt: its instruction and its input are text."""
    return [(part, "frame" if own else "text") for part, own in prompt_parts(text)]


_encoders: WeakKeyDictionary[Any, TextEncoder] = WeakKeyDictionary()


def _any_of(contents: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(filter(None, contents), key=lambda content: (-len(content), content))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
