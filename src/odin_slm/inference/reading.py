"""From texts to grounded extractions: prompts, windows, decoding, and everything put back on the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from odin_slm.config.parameters.base import Precision
from odin_slm.core.errors import ExtractionError, GrammarError, OdinError, RecordTooLongError
from odin_slm.core.folding import fold
from odin_slm.core.record import render_prompt
from odin_slm.core.sentences import windows
from odin_slm.inference.generation import Generation, Generator
from odin_slm.models.base_model import BaseModel
from odin_slm.models.text_encoder import prompt_of, text_encoder
from odin_slm.tasks import Task
from odin_slm.tasks.base import Reading
from odin_slm.tasks.grammar import Grammar
from odin_slm.tasks.operating_point import point_of

DEFAULTS: dict[str, int] = {"max_new_tokens": 256, "batch_size": 32, "window_tokens": 320, "overlap": 1}
"""How texts are read unless it is said: by a registered model, the service, the batch pipeline and the evaluation."""


@dataclass(frozen=True, slots=True)
class Question:
    """One text to read.

    Attributes:
        text: The text, or one window of it.
        instruction: What the model is asked with, see :func:`instruction_of`.
        task: What reads the answer; None asks without a grammar.
        calibrator: The model's, with the operating point that it is to be read at; None for none. Free outputs know
            none.
    """

    text: str
    instruction: str
    task: Task | None = None
    calibrator: Mapping[str, Any] | None = None

    @property
    def prompt(self) -> str:
        """The prompt that asks for it."""
        return render_prompt(self.instruction, self.text)

    @property
    def grammar(self) -> Grammar | None:
        """The grammar that holds its output, if any."""
        return self.task.grammar(self.instruction, self.text, point_of(self.calibrator)) if self.task else None

    def kept(self, output: Generation) -> Generation:
        """Return its output as the calibrator would have it; see :meth:`odin_slm.tasks.Task.kept`."""
        if not self.task or not self.calibrator:
            return output
        text, lines = self.task.kept(self.text, output.text, output.lines, self.calibrator)
        return replace(output, text=text, lines=lines)


def ask(
    base: BaseModel,
    adapter: Path | None,
    questions: Sequence[Question],
    *,
    names: Sequence[str],
    batch_size: int,
    max_new_tokens: int,
    backend: str = "transformers",
    precision: Precision = "fp32",
    on_progress: Callable[[int, int], None] | None = None,
    resume_log: Path | None = None,
) -> list[Generation]:
    """Ask a model about texts that fit its context, each read whole.

    Args:
        base: The base model.
        adapter: Folder of a LoRA adapter; None for the base alone.
        questions: The texts.
        names: What errors call them.
        batch_size: Outputs decoded together.
        max_new_tokens: Budget of an output.
        backend: ``transformers`` or ``vllm``.
        precision: See :class:`odin_slm.inference.generation.Generator`; vLLM has its own.
        on_progress: Called with (done, all).
        resume_log: File of the outputs so far; a job that was killed goes on from there.

    Returns:
        One output per question, in their order; see :func:`odin_slm.inference.generation.generate`.
    """
    write: Callable[..., list[Generation]]
    if backend == "vllm":
        from odin_slm.inference.vllm import generate as write
    else:
        from odin_slm.inference.generation import generate

        write = partial(generate, precision=precision)
    outputs = write(
        base,
        adapter,
        [question.prompt for question in questions],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        grammars=[question.grammar for question in questions],
        names=names,
        on_progress=on_progress,
        resume_log=resume_log,
    )
    return [question.kept(output) for question, output in zip(questions, outputs, strict=True)]


def instruction_of(task: Task, instructions: Mapping[str, str], source: str = "") -> str:
    """Return what a model is asked with for a source, as it was trained to be.

    Args:
        task: The model's task.
        instructions: Source -> instruction of the training; empty where it is not known.
        source: One of these, or of the task's; empty for the task's default.

    Raises:
        ExtractionError: There is no such source.
    """
    source = source or task.default_source
    if source in instructions:
        return instructions[source]
    if source not in task.sources:
        known = ", ".join(dict.fromkeys((*instructions, *task.sources)))
        raise ExtractionError(f"there is no schema {source!r}.", where="schema", fix=f"Name one of {known}.")
    shared = [text for name, text in instructions.items() if name in task.sources and text != task.instruction(name)]
    return shared[0] if shared else task.instruction(source)


@dataclass(frozen=True, slots=True)
class Window:
    """A window of a document and what the model wrote about it."""

    begin: int
    end: int
    output: str
    finished: bool
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as the service answers."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DocumentExtraction:
    """What was read from one document."""

    reading: Reading
    windows: tuple[Window, ...]


class TokenBudget:
    """How much text fits where.

    Args:
        tokenizer: A fast tokenizer of transformers.
        context: Tokens that prompt and output may have together; None where the model names no limit.
        max_new_tokens: Tokens kept free for the output.
        window_tokens: Tokens of a window's text, at most; a small context leaves less.
        instructions: All that the model may be asked with.

    Raises:
        RecordTooLongError: The context leaves no room for a text.
    """

    def __init__(
        self,
        tokenizer: Any,
        context: int | None,
        max_new_tokens: int,
        window_tokens: int,
        instructions: Iterable[str],
    ) -> None:
        self._encoder = text_encoder(tokenizer)
        frame = max(len(self._encoder.encode(prompt_of(render_prompt(one, "")))) for one in instructions)
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
        return self._encoder.lengths([[(text, "text")] for text in texts])

    def windows(self, text: str, overlap: int) -> list[tuple[int, int]]:
        """Cut a text into windows; see :func:`odin_slm.core.sentences.windows`."""
        return windows(text, self.count, self.window_tokens, overlap)


_UNLIMITED_CONTEXT = 8192


def all_instructions(task: Task, instructions: Mapping[str, str]) -> list[str]:
    """Return all that a model may be asked with."""
    return [*map(task.instruction, task.sources), *instructions.values()]


def assemble(
    task: Task,
    text: str,
    spans: Sequence[tuple[int, int]],
    outputs: Sequence[Generation],
    calibrator: Mapping[str, Any] | None = None,
) -> DocumentExtraction:
    """Put the outputs of a document's windows back on its text."""
    parts = [
        task.read(text, output.text, begin=begin, end=end, lines=output.lines, calibrator=calibrator)
        for (begin, end), output in zip(spans, outputs, strict=True)
    ]
    read = tuple(
        Window(begin, end, output.text, output.finished, output.tokens)
        for (begin, end), output in zip(spans, outputs, strict=True)
    )
    return DocumentExtraction(task.merge(text, parts), read)


def check_text(text: object) -> None:
    """Refuse what no tokenizer can read.

    Args:
        text: A text, or what a client has sent in its place.

    Raises:
        OdinError: It is missing (None, NaN and its like), no text, blank, or holds half a surrogate pair.
    """
    if not isinstance(text, str):
        gap = isinstance(text, float) and math.isnan(text)
        missing = text is None or gap or type(text).__name__ in ("NAType", "NaTType")  # as pandas has gaps
        what = "the text is missing." if missing else f"found a value of the type {type(text).__name__}."
        raise OdinError(what, fix="Send a text.")
    if not fold(text):
        raise OdinError("the text is blank.", fix="Send a text with words in it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OdinError(
            f"the text holds half a surrogate pair (character {error.start}).", fix="Send valid Unicode."
        ) from None


class Reader:
    """Documents in, readings out, on this machine.

    Args:
        base: The base model.
        adapter: Folder of a LoRA adapter; None for the base alone.
        task: What the model was taught.
        source: What to look for, see :func:`instruction_of`.
        constrained: Whether grammars hold the outputs to the texts.
        batch_size: Windows decoded together.
        max_new_tokens: Budget of an output.
        window_tokens: Tokens of a window's text.
        overlap: Sentences that neighbouring windows share.
        calibrator: Of the adapter, with its operating point, or None; confidences are then the raw probabilities.
        instructions: Source -> instruction that the adapter was trained with, where that is known.
        loaded: The same base and adapter, loaded before; None loads them.
        precision: Of what is loaded here; see :class:`odin_slm.inference.generation.Generator`.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Path | None,
        *,
        task: Task,
        source: str,
        constrained: bool,
        batch_size: int,
        max_new_tokens: int,
        window_tokens: int,
        overlap: int,
        calibrator: Mapping[str, Any] | None = None,
        instructions: Mapping[str, str] = MappingProxyType({}),
        loaded: Generator | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self._generator = loaded or Generator(base, adapter, precision)
        max_new_tokens = task.output_tokens(max_new_tokens, window_tokens)
        self._calibrator = calibrator
        self._task = task
        self._instruction = instruction_of(task, instructions, source)
        self._budget = TokenBudget(
            self._generator.tokenizer,
            self._generator.context,
            max_new_tokens,
            window_tokens,
            all_instructions(task, instructions),
        )
        self._constrained = constrained
        self._batch_size, self._max_new_tokens, self._overlap = batch_size, max_new_tokens, overlap

    def extract(
        self, texts: Sequence[Any], on_progress: Callable[[int], None] | None = None
    ) -> list[DocumentExtraction | OdinError]:
        """Read documents of any length.

        Args:
            texts: The documents; what is no text in a place of them has an error there.
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
        grammars_of = self._task if self._constrained else None
        questions = [
            Question(texts[number][begin:end], self._instruction, grammars_of, self._calibrator)
            for number, begin, end in owners
        ]
        outputs: dict[int, Generation] = {}
        waiting = {number: len(found) for number, found in spans.items()}
        done = len(results)

        def keep(output: Generation) -> None:
            nonlocal done
            outputs[output.index] = questions[output.index].kept(output)
            number = owners[output.index][0]
            waiting[number] -= 1
            if not waiting[number]:
                done += 1
                if on_progress:
                    on_progress(done)

        try:
            self._write(questions, range(len(questions)), keep)
        except GrammarError:  # of one text among many: ask for each by itself; which were done is a matter of chance
            outputs.clear()
            waiting, done = {number: len(found) for number, found in spans.items()}, len(results)
            for index in range(len(questions)):
                try:
                    self._write(questions, [index], keep)
                except GrammarError as error:
                    results[owners[index][0]] = error
        indices: dict[int, list[int]] = {}
        for index, (number, _, _) in enumerate(owners):
            indices.setdefault(number, []).append(index)
        for number, own in indices.items():
            if number not in results:
                results[number] = assemble(
                    self._task, texts[number], spans[number], [outputs[index] for index in own], self._calibrator
                )
        return [results[number] for number in range(len(texts))]

    def _write(self, questions: Sequence[Question], which: Sequence[int], keep: Callable[[Generation], None]) -> None:
        rows = self._generator.rows(
            [questions[index].prompt for index in which],
            max_new_tokens=self._max_new_tokens,
            grammars=[questions[index].grammar for index in which],
        )

        def renumber(output: Generation) -> None:
            keep(replace(output, index=which[output.index]))

        self._generator.write_all(rows, renumber, self._batch_size, single_threaded=True)
