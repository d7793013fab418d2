"""From texts to grounded extractions: prompts, windows, decoding, and everything put back on the text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from odin_slm.core.errors import GrammarError, OdinError, RecordTooLongError
from odin_slm.core.record import render_prompt
from odin_slm.inference.generation import Generation, Generator
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks.extraction.format import instruction_for
from odin_slm.tasks.extraction.grammar import Grammar
from odin_slm.tasks.extraction.grounding import Grounded, ground, merge, windows
from odin_slm.tasks.extraction.schema import ENTITY_TYPES, RELATION_TYPES, SCHEMAS, Schema

REQUEST_SCHEMAS: dict[str, Schema] = {"all": Schema(ENTITY_TYPES, RELATION_TYPES), **SCHEMAS}
"""What may be asked for: every type of the closed sets, or what one corpus annotates."""
DEFAULT_SCHEMA = "biored"
"""The widest that a corpus annotates. No record asks for all types at once, and a small model cannot guess."""


@dataclass(frozen=True, slots=True)
class Task:
    """One text to read.

    Attributes:
        text: The text, or one window of it.
        schema: A key of :data:`REQUEST_SCHEMAS`.
        constrained: Whether a grammar holds the output to the text.
        instruction: What the model is asked with, see :func:`instruction_of`; empty for the schema's own.
    """

    text: str
    schema: str = DEFAULT_SCHEMA
    constrained: bool = True
    instruction: str = ""

    @property
    def prompt(self) -> str:
        """The prompt that asks for it."""
        return render_prompt(self.instruction or instruction_for(REQUEST_SCHEMAS[self.schema]), self.text)

    @property
    def grammar(self) -> Grammar | None:
        """The grammar that holds its output, if any."""
        if not self.constrained:
            return None
        if self.instruction:
            return Grammar.of(self.instruction, self.text)
        return Grammar(self.text, REQUEST_SCHEMAS[self.schema])


def instruction_of(instructions: Mapping[str, str], schema: str) -> str:
    """Return what a model is asked with for a schema, as it was trained to be.

    Args:
        instructions: Schema -> instruction of the training; empty where it is not known.
        schema: A key of these, or of :data:`REQUEST_SCHEMAS`.
    """
    if schema in instructions:
        return instructions[schema]
    own = {name: instruction_for(known) for name, known in SCHEMAS.items()}
    shared = [text for name, text in instructions.items() if text != own.get(name)]
    return shared[0] if shared else instruction_for(REQUEST_SCHEMAS[schema])


@dataclass(frozen=True, slots=True)
class Window:
    """A window of a document and what the model wrote about it."""

    begin: int
    end: int
    output: str
    finished: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class DocumentExtraction:
    """What was read from one document."""

    grounded: Grounded
    windows: tuple[Window, ...]


class TokenBudget:
    """How much text fits where.

    Args:
        tokenizer: A fast tokenizer of transformers.
        context: Tokens that prompt and output may have together; None where the model names no limit.
        max_new_tokens: Tokens kept free for the output.
        window_tokens: Tokens of a window's text, at most; a small context leaves less.
        instructions: What the model is asked with beside the schemas' own.

    Raises:
        RecordTooLongError: The context leaves no room for a text.
    """

    def __init__(
        self,
        tokenizer: Any,
        context: int | None,
        max_new_tokens: int,
        window_tokens: int,
        instructions: Iterable[str] = (),
    ) -> None:
        self._tokenizer = tokenizer
        asked = [*map(instruction_for, REQUEST_SCHEMAS.values()), *instructions]
        frame = max(self.count([render_prompt(instruction, "") for instruction in asked]))
        # A text's first and last tokens may merge otherwise inside the prompt than alone; BOS is one more.
        room = (context or _UNLIMITED_CONTEXT) - frame - max_new_tokens - 8
        if room < 8:
            raise RecordTooLongError(
                f"a context of {context} tokens leaves no room for a text beside {max_new_tokens} of output.",
                where="max_new_tokens",
                fix="Lower it.",
            )
        self.text_tokens = room
        self.window_tokens = min(window_tokens, room)

    def count(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text."""
        return [len(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def windows(self, text: str, overlap: int) -> list[tuple[int, int]]:
        """Cut a text into windows; see :func:`odin_slm.tasks.extraction.grounding.windows`."""
        return windows(text, self.count, self.window_tokens, overlap)


_UNLIMITED_CONTEXT = 8192


def assemble(
    text: str,
    spans: Sequence[tuple[int, int]],
    outputs: Sequence[Generation],
    calibrator: Mapping[str, Any] | None = None,
) -> DocumentExtraction:
    """Put the outputs of a document's windows back on its text."""
    parts = [
        ground(text, output.text, begin, end, output.lines, calibrator)
        for (begin, end), output in zip(spans, outputs, strict=True)
    ]
    read = tuple(
        Window(begin, end, output.text, output.finished, output.tokens)
        for (begin, end), output in zip(spans, outputs, strict=True)
    )
    return DocumentExtraction(merge(text, parts), read)


def check_text(text: str) -> None:
    """Refuse what no tokenizer can read.

    Raises:
        OdinError: The text is blank, or holds half a surrogate pair.
    """
    if not text.strip():
        raise OdinError("the text is blank.", fix="Send a text with words in it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OdinError(
            f"the text holds half a surrogate pair (character {error.start}).", fix="Send valid Unicode."
        ) from None


class Extractor:
    """Documents in, extractions out, on this machine.

    Args:
        base: The base model.
        adapter: Folder of a LoRA adapter; None for the base alone.
        schema: What to look for, see :func:`instruction_of`.
        constrained: Whether grammars hold the outputs to the texts.
        batch_size: Windows decoded together.
        max_new_tokens: Budget of an output.
        window_tokens: Tokens of a window's text.
        overlap: Sentences that neighbouring windows share.
        calibrator: Of the adapter, or None; confidences are then the raw probabilities.
        instructions: Schema -> instruction that the adapter was trained with, where that is known.
        loaded: The same base and adapter, loaded before; None loads them.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Path | None,
        *,
        schema: str,
        constrained: bool,
        batch_size: int,
        max_new_tokens: int,
        window_tokens: int,
        overlap: int,
        calibrator: Mapping[str, Any] | None = None,
        instructions: Mapping[str, str] = MappingProxyType({}),
        loaded: Generator | None = None,
    ) -> None:
        self._generator = loaded or Generator(base, adapter)
        self._calibrator = calibrator
        self._instruction = instruction_of(instructions, schema)
        self._budget = TokenBudget(
            self._generator.tokenizer, self._generator.context, max_new_tokens, window_tokens, instructions.values()
        )
        self._schema, self._constrained = schema, constrained
        self._batch_size, self._max_new_tokens, self._overlap = batch_size, max_new_tokens, overlap

    def extract(
        self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None
    ) -> list[DocumentExtraction | OdinError]:
        """Read documents of any length.

        Args:
            texts: The documents.
            on_progress: Called with the number of documents that are done.

        Returns:
            For every document what was read from it, or why it could not be read; one fault costs one document.
        """
        results: dict[int, DocumentExtraction | OdinError] = {}
        spans: dict[int, list[tuple[int, int]]] = {}
        for number, text in enumerate(texts):
            try:
                check_text(text)
                spans[number] = self._budget.windows(text, self._overlap)
            except OdinError as error:
                results[number] = error
        owners = [(number, begin, end) for number, found in spans.items() for begin, end in found]
        tasks = [
            Task(texts[number][begin:end], self._schema, self._constrained, self._instruction)
            for number, begin, end in owners
        ]
        outputs: dict[int, Generation] = {}
        waiting = {number: len(found) for number, found in spans.items()}
        done = len(results)

        def keep(output: Generation) -> None:
            nonlocal done
            outputs[output.index] = output
            number = owners[output.index][0]
            waiting[number] -= 1
            if not waiting[number]:
                done += 1
                if on_progress:
                    on_progress(done)

        try:
            self._write(tasks, range(len(tasks)), keep)
        except GrammarError:  # of one text among many: ask for each by itself; which were done is a matter of chance
            outputs.clear()
            waiting, done = {number: len(found) for number, found in spans.items()}, len(results)
            for index in range(len(tasks)):
                try:
                    self._write(tasks, [index], keep)
                except GrammarError as error:
                    results[owners[index][0]] = error
        indices: dict[int, list[int]] = {}
        for index, (number, _, _) in enumerate(owners):
            indices.setdefault(number, []).append(index)
        for number, own in indices.items():
            if number not in results:
                results[number] = assemble(
                    texts[number], spans[number], [outputs[index] for index in own], self._calibrator
                )
        return [results[number] for number in range(len(texts))]

    def _write(self, tasks: Sequence[Task], which: Sequence[int], keep: Callable[[Generation], None]) -> None:
        rows = self._generator.rows(
            [tasks[index].prompt for index in which],
            max_new_tokens=self._max_new_tokens,
            grammars=[tasks[index].grammar for index in which],
        )

        def renumber(output: Generation) -> None:
            keep(replace(output, index=which[output.index]))

        self._generator.write_all(rows, renumber, self._batch_size, single_threaded=True)
