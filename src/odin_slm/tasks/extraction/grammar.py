r"""Decoding held to the text: a grammar per input, and the state of it for every row of a batch.

An output has two phases. In the first, every entity is a span of the input, word for word, with a type that the
instruction names. When the first relation is about to be written, the entities are known, and a second grammar allows
only triples of listed entities with a legal type signature (:data:`odin_slm.tasks.extraction.schema.SIGNATURES`).

The grammars are Lark as llguidance reads it. A line is one terminal: split into several, the greedy lexer would take
the space before ``--[`` into the name and refuse the arrow. Spans are built from chunks of white space, words and
single punctuation marks (``%regex {"substring_chunks": …}``), so that a name never starts or ends inside a word. Text
that the output format would have to escape (line breaks, backslashes, ``--[``) belongs to no span.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from odin_slm.core.errors import GrammarError
from odin_slm.tasks.extraction.format import (
    ENTITIES_HEADER,
    NOTHING,
    RELATIONS_HEADER,
    SHARED_INSTRUCTION,
    Entity,
    instruction_for,
    parse,
    render,
)
from odin_slm.tasks.extraction.schema import ENTITY_TYPES, RELATION_TYPES, SCHEMAS, SIGNATURES, Schema

if TYPE_CHECKING:
    import numpy

_CHUNK = re.compile(r"\s+|\w+|[^\w\s]")
_NEEDS_ESCAPE = re.compile(r"--\[|[\\\r\n]")
_NUMBER = r"/[1-9][0-9]{0,2}\. /"
_REPEATS = 3

_EVERYTHING = Schema(ENTITY_TYPES, RELATION_TYPES)


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an output may say.

    Attributes:
        text: The input; every entity is a span of it.
        schema: Types that the instruction names.
    """

    text: str
    schema: Schema = _EVERYTHING

    @classmethod
    def of(cls, instruction: str, text: str) -> Grammar:
        """Return the grammar of a record; an instruction of unknown wording allows the whole closed sets."""
        schemas = {instruction_for(schema): schema for schema in SCHEMAS.values()}
        return cls(text, schemas.get(instruction, _EVERYTHING))

    def entities_lark(self) -> str:
        """Return the first phase as Lark: all of the output up to the first relation."""
        header, heading = _literal(f"{ENTITIES_HEADER}\n"), _literal(f"\n{RELATIONS_HEADER}\n")
        nothing = _literal(f"{NOTHING}\n")
        chunks = _CHUNK.findall(_NEEDS_ESCAPE.sub("\n", self.text))
        if not any(chunk.strip() for chunk in chunks):
            return f"start: {header} {nothing} {heading}\n"
        types = _any_of(f"[{name}] " for name in self.schema.entities)
        return (
            f"start: {header} entities {heading}\n"
            f"entities: {nothing} | ENTITY+\n"
            f"SPAN: %regex {json.dumps({'substring_chunks': chunks})}\n"
            r"NAME: SPAN & /[^\s](.*[^\s])?/"
            f'\nENTITY: {_NUMBER} {types} NAME "\\n"\n'
        )

    def relations_lark(self, entities: Iterable[Entity], written: str = "") -> str:
        """Return the second phase as Lark.

        Args:
            entities: The entities that the output lists.
            written: What is already written of the heading before the relations.
        """
        heading = f"{RELATIONS_HEADER}\n".removeprefix(written)
        start = f"start: {_literal(heading)} relations\n" if heading else "start: relations\n"
        triples = list(_triples(list(entities), self.schema))
        if not triples:
            return f"{start}relations: {_literal(NOTHING)}\n"
        alternatives = " | ".join(
            f"({_any_of(heads)} {_literal(f' --[{relation}]--> ')} {_any_of(tails)})"
            for heads, relation, tails in triples
        )
        return (
            f"{start}"
            f"relations: {_literal(NOTHING)} | FIRST NEXT*\n"
            f"TRIPLE: {alternatives}\n"
            f"FIRST: {_NUMBER} TRIPLE\n"
            f'NEXT: "\\n" {_NUMBER} TRIPLE\n'
        )


class Vocabulary:
    """A model's tokens as llguidance reads them; one per model, as building it takes up to a second.

    Args:
        tokenizer: A fast tokenizer of transformers.
        size: Number of the model's logits.
        end_tokens: Ids that end a text.
    """

    def __init__(self, tokenizer: Any, size: int, end_tokens: Sequence[int]) -> None:
        from llguidance import LLExecutor
        from llguidance.hf import from_tokenizer

        self.tokens = from_tokenizer(tokenizer, n_vocab=max(size, len(tokenizer)), eos_token=list(end_tokens))
        self.size = size
        self.newlines = frozenset(
            token for token in range(len(tokenizer)) if b"\n" in self.tokens.decode_bytes([token])
        )
        self._executor = LLExecutor()

    def allowed(self, constraints: Sequence[Constraint]) -> numpy.ndarray[Any, Any]:
        """Return which tokens may come next: booleans of shape (constraints, model's logits)."""
        import numpy
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

        mask = allocate_token_bitmask(len(constraints), self.tokens.vocab_size)
        fill_next_token_bitmask_par(self._executor, [(c.matcher, row) for row, c in enumerate(constraints)], mask)
        for constraint in constraints:
            constraint.check()
        # llguidance.torch would compile a kernel for this; unpacking 32 x 128k bits takes numpy two milliseconds.
        return numpy.unpackbits(mask.view(numpy.uint8), axis=1, bitorder="little", count=self.size).view(bool)


class Constraint:
    """The grammar's state in one row of a batch.

    Args:
        vocabulary: The model's tokens.
        grammar: What the row may say.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar) -> None:
        self.closed = False
        """Whether the row is complete although the model has not ended it: it ran in circles."""
        self._vocabulary = vocabulary
        self._grammar = grammar
        self._written: list[int] = []
        self._in_relations = False
        self.matcher = _matcher(vocabulary.tokens, grammar.entities_lark())

    @property
    def text(self) -> str:
        """The text written so far; of a closed row, the text without the line that it was about to start."""
        text: str = self._vocabulary.tokens.decode_str(self._written)
        return text[: text.rindex("\n")] if self.closed else text

    def consume(self, token: int) -> None:
        """Take the token that the model chose; it must be one that the mask allowed.

        Raises:
            GrammarError: llguidance refuses the token.
        """
        self.matcher.consume_token(token)
        self.check()
        self._written.append(token)
        if token in self._vocabulary.newlines:
            self._end_of_line()

    def check(self) -> None:
        """Raise what llguidance only notes.

        Raises:
            GrammarError: The matcher is in its error state.
        """
        if self.matcher.is_error():
            raise _error(self.matcher)

    def _end_of_line(self) -> None:
        text = self.text
        section, blank, begun = text.partition("\n\n")
        if self._in_relations:
            self.closed = _in_circles(text)
        elif blank:
            self._in_relations = True
            self._continue(self._grammar.relations_lark(parse(section).extraction.entities, begun))
        elif text.endswith("\n") and _in_circles(text):
            self._continue(f"start: {_literal(f'{chr(10)}{RELATIONS_HEADER}{chr(10)}')}\n")

    def _continue(self, lark: str) -> None:
        self.matcher = _matcher(self._vocabulary.tokens, lark)


def up_to_circles(text: str, begin: int = 0) -> str | None:
    """Return a text up to the first line that says what two lines before it have said; None where there is none.

    Args:
        text: An output.
        begin: Where to begin to look for that line.
    """
    ends = (match.end() for match in re.finditer("\n", text))
    return next((text[:end] for end in ends if end > begin and _in_circles(text[:end])), None)


def complete_lines(text: str) -> str:
    """Return an output that the token budget cut off as a whole one: its complete lines and nothing after them."""
    return render(parse(text[: text.rfind("\n") + 1]).extraction)


def reachable(text: str, output: str, instruction: str = SHARED_INSTRUCTION) -> bool:
    """Tell whether the grammar accepts an output, entities and relations.

    Args:
        text: The input.
        output: The output, for example a record's gold.
        instruction: The record's instruction; it names the types.
    """
    grammar = Grammar.of(instruction, text)
    section, blank, relations = output.partition("\n\n")
    heading = f"{RELATIONS_HEADER}\n"
    if not blank or not relations.startswith(heading):
        return False
    entities = parse(section).extraction.entities
    return _accepts(grammar.entities_lark(), f"{section}\n\n{heading}") and _accepts(
        grammar.relations_lark(entities), relations
    )


def _triples(entities: list[Entity], schema: Schema) -> Iterator[tuple[list[str], str, list[str]]]:
    """Yield (heads, relation, tails) so that each head goes with each tail."""
    of_type: dict[str, list[str]] = {}
    for entity in dict.fromkeys(entities):
        of_type.setdefault(entity.type, []).append(entity.text)
    for relation in schema.relations:
        for head_type, tail_type in sorted(SIGNATURES[relation]):
            heads, tails = of_type.get(head_type, []), of_type.get(tail_type, [])
            if not {head.casefold() for head in heads} & {tail.casefold() for tail in tails}:
                if heads and tails:
                    yield heads, relation, tails
                continue
            for head in heads:  # nothing is related to itself, whatever its types
                others = [tail for tail in tails if tail.casefold() != head.casefold()]
                if others:
                    yield [head], relation, others


def _in_circles(text: str) -> bool:
    """Tell whether the last whole line says what two lines before it have said.

    A greedy decoder that writes a line for the third time goes on to write it until the budget ends. Outputs are read
    as sets, so ending the list there loses nothing.
    """
    lines = [line.partition(". ")[2] for line in text.split("\n")[:-1]]
    return bool(lines) and lines.count(lines[-1]) >= _REPEATS and bool(lines[-1])


def _any_of(texts: Iterable[str]) -> str:
    return f"({' | '.join(_literal(text) for text in texts)})"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # DEL: JSON takes it as it is, Lark does not


def _matcher(tokens: Any, lark: str) -> Any:
    from llguidance import LLMatcher

    matcher = LLMatcher(tokens, LLMatcher.grammar_from_lark(lark), log_level=0)
    if matcher.is_error():
        raise _error(matcher)
    return matcher


def _error(matcher: Any) -> GrammarError:
    return GrammarError(
        f"llguidance cannot hold the output to its input ({matcher.get_error().strip()}).",
        fix="Set evaluation.decoding=free, or report the input.",
    )


def _accepts(lark: str, output: str) -> bool:
    matcher, said = _matcher(_bytes(), lark), list(output.encode("utf-8"))
    return matcher.try_consume_tokens(said) == len(said) and matcher.is_accepting()


@cache
def _bytes() -> Any:
    """A vocabulary of single bytes: acceptance then does not depend on any model's tokens."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))


class _Bytes:
    """What llguidance asks of a tokenizer."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)
