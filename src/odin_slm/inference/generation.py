"""Batched greedy generation with the base model or with an adapter merged into it.

Every prompt is read whole, token for token as in training; what all prompts of a batch begin with, the instruction, is
read once and remembered. Rows are sorted by length and padded on the left; a row leaves its batch when it ends, and a
waiting one takes its place. The decoding loop is our own: it drops finished rows, holds every row to a grammar of its
own, and needs no generation settings to be neutralised. There is no repetition penalty: an extraction must repeat the
words of its input.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odin_slm.config.parameters.base import Precision
from odin_slm.core import json_text
from odin_slm.core.errors import AdapterError, RecordTooLongError
from odin_slm.core.record import before_input
from odin_slm.inference.decoding.constraint import Constraint, Vocabulary
from odin_slm.inference.decoding.scoring import log_shares
from odin_slm.inference.resume_log import ResumeLog, describe
from odin_slm.models.backends import reading_precision
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer, standing_alone
from odin_slm.models.tokens import end_tokens, line_break_counter, prompt_ids
from odin_slm.models.tying import settle, untie
from odin_slm.tasks.grammar import Grammar

if TYPE_CHECKING:
    import numpy
    import torch

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOG_LINES = 15.0
_WORTH_KEEPING = 8  # tokens of an instruction
_KEPT_INSTRUCTIONS = 16
_REFILL = 4
"""A batch is refilled when one in so many of its places is free: reading a single prompt is not worth it."""
_QUEUE = 4
"""Batches that one thread decodes as one batch, which is refilled."""
_DRAFT = 8
"""Tokens of a draft, at most: more are computed in vain where the model goes another way."""
_READ_AT_ONCE = {"fp32": 108, "bf16": 256}
"""Tokens of all rows together that a CPU reads at once for a draft's sake, at most; above it, computing takes over."""
_NARROW = 512
"""Width of hidden states up to which sharing a matrix product among threads costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote after one prompt.

    Attributes:
        index: Position of the prompt in the call.
        text: The output. Under a grammar it follows the format even where it is not finished.
        finished: Whether the output ended before the budget of tokens did.
        tokens: Tokens written, the end-of-sequence token not counted.
        lines: For every line of the text the log-probability (natural) of its tokens, given all before it, with the
            line break or end that closes it: of the likeliest output, in the distribution that it was chosen from.
            Under a grammar that is the model's over the allowed tokens alone, so that a token without alternative
            has 0. None for a line that the model did not write. Where a grammar biases the ends of lists, see
            :mod:`odin_slm.inference.decoding.list_ends`.
        ends: For every line of the text the log-odds, without their bias, of ending its list after it against going
            on, None where that was not asked; empty where nothing biases the ends of lists.
        weighed: Lines that the grammar weighed once the output was written, each with its score; mostly none.
    """

    index: int
    text: str
    finished: bool
    tokens: int
    lines: tuple[float | None, ...] = ()
    ends: tuple[float | None, ...] = ()
    weighed: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Generation:
        """Return a generation from what ``asdict`` made of it and JSON kept."""
        weighed = tuple((line, score) for line, score in values.get("weighed", ()))
        tuples = {name: tuple(values.get(name, ())) for name in ("lines", "ends")}
        return cls(**{**values, **tuples, "weighed": weighed})


@dataclass(slots=True)
class _Row:
    index: int
    prompt: list[int]
    limit: int
    instruction: int = 0
    """How many tokens of the prompt precede its input text."""
    grammar: Grammar | None = None
    cancelled: Callable[[], bool] | None = None
    constraint: Constraint | None = None
    written: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    """Of every token written, and of the end."""
    finished: bool = False
    read: Any = None
    """Keys and values of what the model has read, once the row is done and its grammar weighs alternatives."""


def generate(
    base: BaseModel,
    adapter: Path | None,
    prompts: Sequence[str],
    *,
    batch_size: int,
    max_new_tokens: int,
    grammars: Sequence[Grammar | None] | None = None,
    names: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    resume_log: Path | None = None,
    loaded: Generator | None = None,
    precision: Precision = "fp32",
) -> list[Generation]:
    """Write the most likely output after every prompt.

    Equal prompts of a batch are read once, so that asking with and without a grammar costs less than two runs.

    Args:
        base: The base model.
        adapter: Folder of a LoRA adapter that is merged into it; None for the base alone.
        prompts: Prompts.
        batch_size: Rows decoded together; on a CPU every core decodes such a batch.
        max_new_tokens: Budget of an output; the model's context may leave less.
        grammars: For every prompt the grammar of its output, or None.
        names: What errors call the prompts, for example record ids.
        on_progress: Called with (prompts done, prompts) whenever some are done.
        resume_log: File that outputs are written to as they end. Outputs of the same model, prompts and settings that
            it holds already are taken from it. None keeps no file.
        loaded: The same base and adapter, loaded before in this precision; None loads them for this call.
        precision: See :class:`Generator`.

    Returns:
        One generation per prompt, in the order of the prompts.

    Raises:
        RecordTooLongError: A prompt leaves no room for an output in the model's context.
        AdapterError, BaseModelError, GrammarError: As :class:`Generator` does, and :meth:`Generator.write`.
    """
    if not prompts:
        return []
    generator = loaded or Generator(base, adapter, precision)
    grammars = grammars or [None] * len(prompts)
    rows = generator.rows(prompts, max_new_tokens=max_new_tokens, grammars=grammars, names=names)
    way = f"transformers {reading_precision(precision)}"
    log, done = open_resume_log(resume_log, base, adapter, prompts, max_new_tokens, grammars, way)

    def keep(generation: Generation) -> None:
        done.append(generation)
        if log:
            log.add(asdict(generation))
        if on_progress:
            on_progress(len(done), len(prompts))

    try:
        generator.write_all(rows, keep, batch_size, {generation.index for generation in done})
    finally:
        if log:
            log.end()
    return sorted(done, key=lambda generation: generation.index)


def open_resume_log(
    file: Path | None,
    base: BaseModel,
    adapter: Path | None,
    prompts: Sequence[str],
    max_new_tokens: int,
    grammars: Sequence[Grammar | None],
    way: str,
) -> tuple[ResumeLog | None, list[Generation]]:
    """Return the resume log of a job, open for more, and the outputs that it holds already; None without a file."""
    if file is None:
        return None, []
    settings = [max_new_tokens, [str(grammar) if grammar else "" for grammar in grammars], way]
    log = ResumeLog(file, describe(base, adapter, prompts, settings))
    done = [Generation.of(row) for row in log.rows.values()]
    if done:
        _log.info("%s: %d of %d outputs are there already.", file.name, len(done), len(prompts))
    log.begin()
    return log, done


class Generator:
    """A model in memory: loaded once, asked often, by several threads at once.

    Args:
        base: The base model.
        adapter: Folder of a LoRA adapter that is merged into it; None for the base alone.
        precision: Arithmetic of the layers' products on a CPU: ``fp32``, ``bf16``, or ``auto``, which is bf16 where the
            processor multiplies faster in it. Outputs in bf16 differ now and then. A GPU takes bf16 where it has it.

    Raises:
        AdapterError: The adapter does not fit the base.
        BaseModelError: The base cannot be loaded.
    """

    def __init__(self, base: BaseModel, adapter: Path | None = None, precision: Precision = "fp32") -> None:
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = reading_precision(precision)
        dtype = torch.bfloat16 if found == "bf16" else torch.float32
        self._adopt(_load(base, adapter, device, dtype), load_tokenizer(base), found)

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> Generator:
        """Return a generator of a model that is in memory already, as it is; a model that changes needs a new one.

        Args:
            model: A causal model of transformers in evaluation mode.
            tokenizer: Its tokenizer.
        """
        generator = cls.__new__(cls)
        generator._adopt(model, tokenizer)
        return generator

    def _adopt(self, model: Any, tokenizer: Any, precision: str = "fp32") -> None:
        self.tokenizer = tokenizer
        self._model = model
        self.on_cpu = model.device.type == "cpu"
        self._at_once = _READ_AT_ONCE[precision] if self.on_cpu else None
        self._end_tokens = end_tokens(self._model, self.tokenizer)
        self._breaks = line_break_counter(self.tokenizer)
        self._narrow = self.on_cpu and getattr(self._model.config, "hidden_size", _NARROW + 1) <= _NARROW
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._instructions: dict[tuple[int, ...], Any] = {}

    @property
    def model(self) -> Any:
        """The model of transformers, in evaluation mode."""
        return self._model

    @property
    def context(self) -> int | None:
        """Tokens that prompt and output may have together; None where the model names no limit."""
        limit: int | None = getattr(self._model.config, "max_position_embeddings", None)
        return limit

    def rows(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        grammars: Sequence[Grammar | None] | None = None,
        names: Sequence[str] | None = None,
        cancelled: Sequence[Callable[[], bool]] | None = None,
    ) -> list[_Row]:
        """Prepare prompts for :meth:`write`.

        Args:
            prompts: Prompts.
            max_new_tokens: Budget of an output; the model's context may leave less.
            grammars: For every prompt the grammar of its output, or None.
            names: What errors call the prompts.
            cancelled: For every prompt a function, called after each token, that tells whether to stop writing.

        Raises:
            RecordTooLongError: A prompt leaves no room for an output in the model's context.
        """
        rows = prompt_rows(self.tokenizer, self.context, prompts, names, max_new_tokens)
        for row in rows:
            row.grammar = grammars[row.index] if grammars else None
            row.cancelled = cancelled[row.index] if cancelled else None
        return rows

    def write(
        self,
        rows: list[_Row],
        on_output: Callable[[Generation], None],
        more: Callable[[int], list[_Row]] | None = None,
    ) -> None:
        """Decode rows as one batch.

        Args:
            rows: What :meth:`rows` returned, or some of it.
            on_output: Called with every output as it ends; never with a cancelled one.
            more: Called after every token with the number of rows that are not done; what it returns, after
                :meth:`prepare`, joins the batch.

        Raises:
            GrammarError: llguidance cannot build a grammar.
        """
        import torch

        self.prepare(rows)
        vocabulary = self._words() if more is not None else self._vocabulary
        with torch.inference_mode():
            for row in _decode(self._model, rows, self._end_tokens, self._read, vocabulary, more, self._at_once):
                if row.cancelled is None or not row.cancelled():
                    on_output(self._judged(row, _generation(row, self.tokenizer, self._breaks)))

    def _judged(self, row: _Row, output: Generation) -> Generation:
        """Weigh the alternatives that a row's grammar names, and return the output that results."""
        if row.grammar is None or not row.grammar.judges or not (outputs := row.grammar.alternatives(output.text)):
            return output
        known, row.read = ([*row.prompt, *row.written], row.read), None
        try:
            shares = log_shares(self, row.prompt, outputs, known)
        except RecordTooLongError:
            return output  # it ends where the context does, and its alternatives are longer
        judgement = row.grammar.judged(output.text, output.lines, shares)
        return replace(output, text=judgement.text, lines=judgement.lines, weighed=judgement.weighed)

    def prepare(self, rows: list[_Row]) -> None:
        """Put rows at their beginning, with their grammars.

        Raises:
            GrammarError: llguidance cannot build a grammar.
        """
        for row in rows:
            row.written, row.log_probabilities, row.finished, row.read = [], [], False, None
            row.constraint = Constraint(self._words(), row.grammar) if row.grammar is not None else None

    def write_all(
        self,
        rows: list[_Row],
        on_output: Callable[[Generation], None],
        batch_size: int,
        kept: Collection[int] = frozenset(),
        *,
        single_threaded: bool = False,
    ) -> None:
        """Decode any number of rows, the longest prompts first; on a CPU every core decodes batches of its own.

        Rows of the next batch take the places of those that end, as a batch of few rows takes nearly as long as a
        full one.

        Args:
            rows: What :meth:`rows` returned, or some of it.
            on_output: Called with every output as it ends, by one thread at a time.
            batch_size: Rows decoded together.
            kept: Rows that have outputs already. Batches that follow each other and were stopped are written
                again as a whole: in another batch the last digits of a row would differ.
            single_threaded: Whether a batch is one thread's on a CPU even where there is only one batch, so that its
                last digits do not depend on the number of cores. Of a narrow model a batch always is: that is faster.
        """
        import torch

        lock = threading.Lock()

        def one_by_one(generation: Generation) -> None:
            with lock:
                if generation.index not in kept:
                    on_output(generation)

        rows = sorted(rows, key=lambda row: (-len(row.prompt), row.prompt, row.index))
        batches = [rows[begin : begin + batch_size] for begin in range(0, len(rows), batch_size)]
        cores = min(len(batches), torch.get_num_threads() if self.on_cpu else 1)
        queues = _queues(batches, 1 if single_threaded else cores)
        queues = [queue for queue in queues if any(row.index not in kept for row in queue)]
        _write_batches(
            queues,
            lambda queue: self._write_queue(queue, one_by_one, batch_size),
            cores,
            in_pool=(single_threaded and self.on_cpu) or self._narrow,
        )

    def _write_queue(self, rows: list[_Row], on_output: Callable[[Generation], None], batch_size: int) -> None:
        """Decode rows as one batch that is filled up whenever a quarter of its places are free."""
        waiting = rows[batch_size:]

        def more(active: int) -> list[_Row]:
            free = batch_size - active
            if free * _REFILL < batch_size:
                return []
            fresh = waiting[:free]
            del waiting[:free]
            self.prepare(fresh)
            return fresh

        self.write(rows[:batch_size], on_output, more if waiting else None)

    def _read(self, rows: list[_Row]) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read the prompts of a batch; see :func:`_read`."""
        pad = self.tokenizer.pad_token_id
        instructions = {tuple(row.prompt[: row.instruction]) for row in rows}
        instruction = instructions.pop() if len(instructions) == 1 else ()
        if len(instruction) < _WORTH_KEEPING:
            return _read(self._model, rows, pad)
        begin = self._instructions.get(instruction)
        if begin is None:
            begin = _read(self._model, [_Row(0, list(instruction), 0)], pad)[0].first_row()
            with self._lock:
                if len(self._instructions) >= _KEPT_INSTRUCTIONS:
                    self._instructions.pop(next(iter(self._instructions)))
                self._instructions[instruction] = begin
        return _read(self._model, rows, pad, begin)

    def _words(self) -> Vocabulary:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self.tokenizer, _logits(self._model), sorted(self._end_tokens))
            return self._vocabulary


def _queues(batches: list[list[_Row]], cores: int) -> list[list[_Row]]:
    """Return the rows of batches in queues of at most some batches, equally many for every core, long prompts first.

    A queue is also the unit that a stopped job writes again, so none is long.

    Args:
        batches: Batches, from the longest prompts to the shortest.
        cores: Threads that decode; 1 where the queues must not depend on them: few batches are then left alone, for
            as many threads as there may be.
    """
    length = min(_QUEUE, len(batches) // (2 * _QUEUE)) if cores == 1 else _QUEUE
    count = cores * -(-len(batches) // (cores * max(1, length)))
    queues = (batches[first::count] for first in range(count))
    return [[row for batch in queue for row in batch] for queue in queues if queue]


def _write_batches(batches: list[list[_Row]], write: Callable[[list[_Row]], None], cores: int, in_pool: bool) -> None:
    """Write all rows; one token of 32 rows is too little work to share among cores: each decodes a batch of its own."""
    import torch

    if not batches or (cores <= 1 and not in_pool):
        for batch in batches:
            write(batch)
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(write, batch) for batch in batches]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)  # what a thread sets is also what later threads begin with


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show progress: a bar with speed and remaining time on a terminal, a log line now and then elsewhere.

    Args:
        label: What is done.
        total: How many there are.

    Yields:
        The ``on_progress`` of :func:`generate`.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    started = time.monotonic()

    before: int | None = None

    def speed(done: int) -> float:
        nonlocal before
        before = done - 1 if before is None else before  # what an earlier attempt left took no time of this one
        return (done - before) / max(time.monotonic() - started, 1e-9)

    if not console.is_terminal:
        logged = started

        def log(done: int, total: int) -> None:
            nonlocal logged
            now, rate = time.monotonic(), speed(done)
            if done == total or now - logged >= _SECONDS_BETWEEN_LOG_LINES:
                logged = now
                left = (total - done) / rate
                _log.info("%s: %d of %d, %.1f examples/s, %.0f s left", label, done, total, rate, left)

        yield log
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.1f} examples/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total, speed=0.0)
        yield lambda done, total: bar.update(task, completed=done, total=total, speed=speed(done))


def prompt_rows(
    tokenizer: Any, context: int | None, prompts: Sequence[str], names: Sequence[str] | None, max_new_tokens: int
) -> list[_Row]:
    """Return a row for every prompt, with its token ids and the budget that the model's context leaves it.

    Raises:
        RecordTooLongError: A prompt leaves no room for an output in the context.
    """
    rows = []
    instructions: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        ids = prompt_ids(tokenizer, prompt)
        head = before_input(prompt)
        if head not in instructions:
            instructions[head] = prompt_ids(tokenizer, head) if head else []
        room = max_new_tokens if context is None else min(max_new_tokens, context - len(ids))
        if room < 1:
            raise RecordTooLongError(
                f"the prompt has {len(ids)} tokens and the model's context {context}; a prompt is never cut.",
                where=names[index] if names else f"prompt {index}",
                fix="Shorten the input, or choose a base with a longer context.",
            )
        # a tokenizer may join the end of the instruction and the beginning of the text into one token
        equal = takewhile(lambda pair: pair[0] == pair[1], zip(instructions[head], ids[:-1], strict=False))
        rows.append(_Row(index, ids, room, sum(1 for _ in equal)))
    return rows


def _decode(
    model: Any,
    rows: list[_Row],
    end_tokens: frozenset[int],
    read: Callable[[list[_Row]], tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]],
    vocabulary: Vocabulary | None,
    more: Callable[[int], list[_Row]] | None = None,
    at_once: int | None = None,
) -> Iterator[_Row]:
    """Decode one batch, with more rows whenever ``more`` has some; yield each row when it is done.

    ``at_once``: tokens of all rows that are read at once with drafts, at most; None for no limit.
    """
    import torch

    ahead = getattr(model.config, "sliding_window", None) is None  # a window is counted in columns, used or not
    cache, states, mask, positions = read(rows)
    active = list(rows)
    drafts: list[list[int]] = [[] for _ in rows]
    while True:
        unread, refused = _write_on(model, states, active, drafts, vocabulary, end_tokens, ahead)
        mask, positions = _without(mask, positions, refused)
        gone = [place for place, tokens in enumerate(unread) if not tokens]
        for place in gone:
            if (grammar := active[place].grammar) is not None and grammar.judges:
                active[place].read = cache.row(place, mask[place])
        yield from (active[place] for place in gone)
        left = len(active) - len(gone)
        fresh = more(left) if more is not None else []
        if not left:
            if not fresh:
                return
            cache, states, mask, positions = read(fresh)
            active, drafts = fresh, [[] for _ in fresh]
            continue
        if gone:
            order = cache.drop(gone)
            active, unread = [active[place] for place in order], [unread[place] for place in order]
            mask, positions = mask[order], positions[order]
        most = _longest_draft(len(active), at_once) if ahead else 0
        drafts = [_draft(row, most) for row in active]
        ids, new, positions = _padded([known + likely for known, likely in zip(unread, drafts, strict=True)], positions)
        mask = torch.cat([cache.close_gaps(mask), new], dim=1)
        states = _forward(model, ids, mask, positions, cache, 1 + max(map(len, drafts)))
        positions = positions[:, -1:]
        if fresh:
            active, drafts = active + fresh, drafts + [[] for _ in fresh]
            room = max(row.limit - len(row.written) for row in active)
            other, first, other_mask, other_positions = read(fresh)
            mask = cache.join(other, mask, other_mask, room)
            first = torch.nn.functional.pad(first, (0, 0, states.shape[1] - 1, 0))
            states, positions = torch.cat([states, first]), torch.cat([positions, other_positions])


def _longest_draft(rows: int, at_once: int | None) -> int:
    """Return how many tokens of a draft a model reads with each row of a batch."""
    return _DRAFT if at_once is None else max(0, min(_DRAFT, at_once // rows - 1))


def _draft(row: _Row, most: int) -> list[int]:
    """Return tokens that probably follow in a row, no more than may still be written."""
    return row.constraint.draft(min(most, row.limit - len(row.written) - 1)) if row.constraint is not None else []


def _write_on(
    model: Any,
    states: torch.Tensor,
    rows: list[_Row],
    drafts: list[list[int]],
    vocabulary: Vocabulary | None,
    end_tokens: frozenset[int],
    ahead: bool,
) -> tuple[list[list[int]], list[int]]:
    """Write a token in every row, and more as long as they are those of its draft, which the model has read.

    A draft changes nothing of what is written (Leviathan et al., 2023, for greedy decoding): it only lets the model
    read several tokens at once, where reading its cache takes longer than computing.

    Args:
        model: The model.
        states: After the last tokens that it has read of each row, shape (rows, longest draft + 1, …).
        rows: The rows.
        drafts: The tokens of each that are not written yet.
        vocabulary: See :func:`_choose`.
        end_tokens: See :func:`_take`.
        ahead: See :func:`_advance`.

    Returns:
        For every row what the model has to read before it is asked again, nothing where the row is done; and how many
        of its last tokens that were read it does not have.
    """
    unread: list[list[int]] = [[] for _ in rows]
    taken = [0] * len(rows)
    asked = list(range(len(rows)))
    while asked:
        last = [states.shape[1] - 1 - len(drafts[place]) + taken[place] for place in asked]
        found = _choose(model, states[asked, last], [rows[place] for place in asked], vocabulary)
        agreed = []
        for place, token, chance in zip(asked, *found, strict=True):
            new = _advance(rows[place], token, chance, end_tokens, ahead)
            pairs = zip(new, drafts[place][taken[place] :], strict=False)
            equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            taken[place] += equal
            unread[place] = new[equal:]
            if new and equal == len(new):
                agreed.append(place)
        asked = agreed
    return unread, [len(draft) - count for draft, count in zip(drafts, taken, strict=True)]


def _without(mask: torch.Tensor, positions: torch.Tensor, refused: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mask and last positions of rows without so many of their last tokens."""
    import torch

    if not any(refused):
        return mask, positions
    counts = torch.tensor(refused, device=mask.device)[:, None]
    columns = torch.arange(mask.shape[1], device=mask.device)
    return mask * (columns < mask.shape[1] - counts), positions - counts


def _padded(unread: list[list[int]], positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the tokens that rows read next as equally long rows, padded on the left, with their mask and positions.

    Args:
        unread: Token ids, at least one in each row.
        positions: Of the last token that each row has read, shape (rows, 1).
    """
    import torch

    width = max(map(len, unread))
    padding = torch.tensor([[width - len(tokens)] for tokens in unread], device=positions.device)
    ids = torch.tensor([[0] * (width - len(tokens)) + tokens for tokens in unread], device=positions.device)
    places = torch.arange(width, device=positions.device) - padding
    return ids, (places >= 0).long(), positions + 1 + places.clamp_min(0)


def _read(
    model: Any, rows: list[_Row], pad: int, begin: Any = None
) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read the prompts of a batch; return its cache, the states after each prompt, the mask and the last positions.

    ``begin`` holds the keys and values of the tokens that all prompts begin with, where they were read before.
    """
    import torch

    from odin_slm.inference.decoding.kv_cache import BatchCache

    known = begin[0][0].shape[2] if begin else 0
    prompts = list(dict.fromkeys(tuple(row.prompt[known:]) for row in rows))
    width = max(len(prompt) for prompt in prompts)
    number = {prompt: position for position, prompt in enumerate(prompts)}
    continues = torch.tensor([number[tuple(row.prompt[known:])] for row in rows], device=model.device)
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    padding = torch.tensor([width - len(p) for p in prompts], device=model.device)
    mask = (torch.arange(known + width, device=model.device) >= padding[:, None]).long()
    positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, known:]
    columns = known + width + max(row.limit for row in rows)
    cache = BatchCache(model.config.num_hidden_layers, continues, columns, padding, begin)
    states = _forward(model, ids, mask, positions, cache, 1)[continues]
    return cache, states, mask[continues], positions[continues, -1:]


def _forward(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any, last: int
) -> torch.Tensor:
    """Return what :func:`_choose` reads of every row, shape (rows, last, …).

    That is the hidden states after its last tokens, or the logits of a model that is not fused.
    """
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
    states: torch.Tensor
    if _fused(model):
        states = model.model(**inputs).last_hidden_state[:, -last:]
    else:
        states = model(**inputs, use_cache=True, logits_to_keep=last).logits.float()
    return states


def _choose(
    model: Any, states: torch.Tensor, rows: list[_Row], vocabulary: Vocabulary | None
) -> tuple[list[int], list[float]]:
    """Return the likeliest allowed token of every row, and its log-probability among the allowed ones.

    A grammar mostly leaves some dozen tokens; where it holds every row, only their logits are computed.
    """
    import torch

    constrained = [(place, row.constraint) for place, row in enumerate(rows) if row.constraint is not None]
    allowed = vocabulary.allowed([constraint for _, constraint in constrained]) if vocabulary and constrained else None
    head = model.lm_head if _fused(model) else None
    if allowed and head is not None and head.weight is not None and len(constrained) == len(rows) and allowed.few:
        some = torch.from_numpy(allowed.tokens)
        logits = states @ head.weight[some].T
        logits.masked_fill_(~torch.from_numpy(allowed.narrow()), -torch.inf)
        highest, chosen = logits.max(-1)
        return _weighed(constrained, some[chosen], highest - logits.logsumexp(-1), logits, allowed.tokens)
    logits = states if head is None else head(states)
    if allowed:
        mask = ~torch.from_numpy(allowed.wide()).to(logits.device)
        if len(constrained) == len(rows):
            logits.masked_fill_(mask, -torch.inf)
        else:
            places = [place for place, _ in constrained]
            logits[places] = logits[places].masked_fill(mask, -torch.inf)
    highest, best = logits.max(-1)
    return _weighed(constrained, best, highest - logits.logsumexp(-1), logits, None)


def _weighed(
    constrained: list[tuple[int, Constraint]],
    best: torch.Tensor,
    chances: torch.Tensor,
    logits: torch.Tensor,
    ids: numpy.ndarray[Any, Any] | None,
) -> tuple[list[int], list[float]]:
    """Return each row's token and its log-probability, after its constraint has weighed the end of its list."""
    tokens, values = best.tolist(), chances.tolist()
    for place, constraint in constrained:
        tokens[place], values[place] = constraint.weigh(tokens[place], values[place], logits[place], ids)
    return tokens, values


def _fused(model: Any) -> bool:
    from odin_slm.inference.decoding.fused_llama import FusedLlama

    return isinstance(getattr(model, "model", None), FusedLlama)


def _take(row: _Row, token: int, log_probability: float, end_tokens: frozenset[int]) -> bool:
    """Append a token to its row; tell whether the row is done."""
    row.log_probabilities.append(log_probability)
    if token in end_tokens:
        row.finished = True
        return True
    row.written.append(token)
    if row.constraint is not None:
        row.constraint.consume(token)
        row.finished = row.constraint.closed
    return row.finished or len(row.written) >= row.limit


def _advance(row: _Row, token: int, log_probability: float, end_tokens: frozenset[int], ahead: bool) -> list[int]:
    """Append a token to its row and, with ``ahead``, those that its grammar forces after it.

    Returns:
        What the model has to read before it is asked again; nothing where the row is done or cancelled.
    """
    known = len(row.written)
    done = _take(row, token, log_probability, end_tokens)
    while ahead and not done and row.constraint is not None and (forced := row.constraint.forced()) is not None:
        done = _take(row, forced, row.constraint.owed(), end_tokens)
    return [] if done or (row.cancelled is not None and row.cancelled()) else row.written[known:]


def _generation(row: _Row, tokenizer: Any, breaks: Callable[[int], int]) -> Generation:
    if row.constraint is None:
        text = tokenizer.decode(row.written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    else:
        text = row.constraint.text if row.finished else row.constraint.complete_text
    lines = line_scores(text, row.written, row.log_probabilities, breaks)
    list_ends = row.constraint.list_ends if row.constraint is not None else None
    ends = list_ends.odds(len(lines)) if list_ends else ()
    return Generation(row.index, text, row.finished, len(row.written), lines, ends)


def line_scores(
    text: str, tokens: Sequence[int], log_probabilities: Sequence[float], breaks: Callable[[int], int]
) -> tuple[float | None, ...]:
    """Add up the log-probabilities of tokens line by line; a token counts for the line in which it begins.

    Args:
        text: The output that the tokens became.
        tokens: Token ids.
        log_probabilities: Of every token, and, where the model ended the output, of the end.
        breaks: Counts the line breaks in a token.

    Returns:
        One value per line of the text, None for a line after the last token's.
    """
    sums = [0.0]
    for number, chance in enumerate(log_probabilities):
        sums[-1] += chance
        if number < len(tokens):
            sums.extend([0.0] * breaks(tokens[number]))
    lines = text.count("\n") + 1
    return tuple(round(value, 6) for value in sums[:lines]) + (None,) * (lines - len(sums))


def _load(base: BaseModel, adapter: Path | None, device: torch.device, products: torch.dtype) -> Any:
    """Load the base, with the adapter merged into its weights; fp32 on a CPU, bf16 on a GPU.

    ``products``: data type of the layers' products on a CPU.
    """
    import torch

    from odin_slm.inference.decoding.fused_llama import fuse
    from odin_slm.inference.decoding.onednn_linear import use_onednn

    base, adapter = standing_alone(base, adapter)
    dtype = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    model = load_model(base, dtype=dtype)
    if adapter is not None:
        model = settle(attach(model, base, adapter).merge_and_unload())
    model = model.to(device).eval()
    return use_onednn(fuse(model), products) if device.type == "cpu" else model


def attach(model: Any, base: BaseModel, adapter: Path) -> Any:
    """Return a loaded base with an adapter on it, as a PEFT model that can be merged.

    Raises:
        AdapterError: It is no LoRA adapter, or does not fit the base.
    """
    from peft import PeftModel, get_peft_model_state_dict

    check_config(adapter)
    found = _shapes(adapter / "adapter_model.safetensors")
    fix = "Name the base that it was trained on (globals.yml, base_model), or another adapter."
    try:
        merged = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise AdapterError(
            f"the adapter does not fit the base {base.source} ({reason}).", where=str(adapter), fix=fix
        ) from error

    def shapes(embeddings: bool) -> dict[str, tuple[int, ...]]:
        weights = get_peft_model_state_dict(merged, save_embedding_layers=embeddings)
        return {name: tuple(value.shape) for name, value in weights.items()}

    expected = shapes(False)
    if found.keys() - expected.keys():  # PEFT saves the base's own beside an adapter of embeddings or head
        expected = shapes(True)
    if found != expected:
        name = sorted(found.items() ^ expected.items())[0][0]
        raise AdapterError(
            f"the adapter does not fit the base {base.source}: {name} is {found.get(name, 'missing')}, "
            f"expected {expected.get(name, 'nothing')}.",
            where=str(adapter),
            fix=fix,
        )
    untie(merged)
    return merged


def check_config(adapter: Path) -> None:
    """Check that a folder holds the configuration of a LoRA adapter.

    Raises:
        AdapterError: It does not.
    """
    file = adapter / "adapter_config.json"
    fix = "Name a folder that PEFT saved: --params adapter=DIR."
    try:
        kind = json_text.loads(file.read_text(encoding="utf-8"))["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"not the configuration of an adapter ({error!r}).", where=str(file), fix=fix) from None
    if kind != "LORA":
        raise AdapterError(f"found an adapter of the kind {kind}, expected LORA.", where=str(file), fix=fix)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"the adapter's weights cannot be read ({error}).",
            where=str(file),
            fix="Train again, or name another folder with --params adapter=DIR.",
        ) from None


def _logits(model: Any) -> int:
    size: int = model.get_output_embeddings().out_features
    return size
