"""Training the embedded base from scratch: tokenizer, loop, checkpoints. Runs on a CPU or one CUDA device."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odin_slm.pretraining.curriculum import Example, Sources, draw
from odin_slm.training.data_parallel import DataParallel

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

EOS, PAD = "<|endoftext|>", "<|pad|>"
MARKERS = (
    "### Instruction:\n",
    "\n\n### Input:\n",
    "\n\n### Output:\n",
    "### Entities:\n",
    "\n\n### Relations:\n",
    ". [",
    " --[",
    "]-->",
)
"""Strings of the format that are one token each. None ends in a space: a name keeps the leading space that it has in
running text, and so the tokens that it has there."""

_POOL_BATCHES = 16


@dataclass(frozen=True)
class Architecture:
    """Shape of the Llama model; sizes in units of features, lengths in tokens."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    context: int


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        tokens: Non-padding tokens to train on.
        batch_tokens: Tokens of one step, padding included.
        learning_rate: Peak rate of Muon, which trains the matrices.
        embedding_learning_rate: Peak rate of AdamW, which trains embeddings and norms.
        circuit_learning_rate: Peak rate of AdamW for the attention that starts out copying.
        warmup: Share of the tokens over which the rate rises.
        decay: Share of the tokens over which it falls to zero, linearly, at the end.
        log_every: Steps between log lines.
        evaluate_every: Steps between evaluations on held-out examples.
        checkpoint_every: Steps between checkpoints.
        average: How many of the last ends, at each of which the rates had fallen to zero, the base is the mean of
            (stochastic weight averaging; Izmailov et al., 2018). 1 takes the last step's weights.
        seed: Seed of weights and data.
    """

    tokens: int
    batch_tokens: int
    learning_rate: float
    embedding_learning_rate: float
    circuit_learning_rate: float
    warmup: float
    decay: float
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    average: int
    seed: int


@dataclass(frozen=True)
class Phase:
    """What is learned over a part of the schedule.

    Attributes:
        until: Share of the schedule's tokens at which the phase ends.
        mixture: Share of each exercise.
        prompt_share: Share of the prompt tokens that are predicted too, drawn at random; a completion token always is.
        decision_weight: How many times a token counts at which an output decides what to say next; see
            :func:`decisions`.
        restart: Share of the peak rates at which they begin anew, to fall to zero at the phase's end (a warm restart;
            Loshchilov and Hutter, 2017, "SGDR"). 0 lets the schedule go on. What comes before the first restart is
            a whole schedule of its own, which a later run can prolong.
    """

    until: float
    mixture: Mapping[str, float]
    prompt_share: float
    decision_weight: float
    restart: float = 0.0


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example.

    Attributes:
        ids: Prompt, completion, end of sequence.
        prompt: How many of them belong to the prompt.
        decisions: Positions at which the completion decides what to say next.
        given: Positions of the completion that are read but not learned.
    """

    ids: list[int]
    prompt: int
    decisions: tuple[int, ...] = ()
    given: tuple[int, ...] = ()


_DECISIONS = re.compile(
    r"(?<=^### Entities:\n)|(?<=### Relations:\n)|(?<!:)(?=\n)"  # whether a list is empty, goes on, or ends
    r"|(?<=^\d\. )(?!\[)|(?<=^\d\d\. )(?!\[)|(?<=\] )|(?<=\]--> )"  # which name comes next
    r"|(?<=\. \[)|(?<= --\[)",  # of what type it is
    re.MULTILINE,
)


def decisions(completion: str) -> list[int]:
    """Return the characters of an output at which it decides what to say next: a name, a type, the end of a list.

    All other characters spell out what was decided, and are most of an output.
    """
    return [match.start() for match in _DECISIONS.finditer(completion)]


def train_tokenizer(texts: Iterable[str], vocabulary: int, context: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer and save it as ``transformers`` loads it.

    Every byte is in the alphabet, so that no text is unknown. The format's markers are single, non-special tokens.
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


def pretrain(
    sources: Sources,
    held_out: Sources,
    tokenizer_folder: Path,
    work: Path,
    *,
    architecture: Architecture,
    schedule: Schedule,
    phases: Sequence[Phase],
    on_log: Callable[[int, dict[str, float]], None],
) -> dict[str, Any]:
    """Train a base from scratch, or go on from the newest checkpoint in ``work``.

    Args:
        sources: What to learn from.
        held_out: What to evaluate on; shares no document with ``sources``.
        tokenizer_folder: Folder of the trained tokenizer.
        work: Folder for ``checkpoint/`` and the finished ``base/``.
        architecture: Shape of the model.
        schedule: Length and rates.
        phases: What is learned when; the last one ends with the schedule.
        on_log: Called with the step and its figures.

    Returns:
        ``history`` (one entry per log line), ``tokens``, ``steps``, ``seconds``, ``parameters``, ``device``.

    Raises:
        BackendError: The checkpoint is of another run, or lacks the weights of an end.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _new_model(architecture, tokenizer, schedule.seed).to(device)
    workers = DataParallel(model, 1 if device.type == "cuda" else torch.get_num_threads())
    optimizers = _optimizers(model, schedule, workers)
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    encode = _encoder(tokenizer, architecture.context)
    settings = {
        "architecture": asdict(architecture),
        "schedule": asdict(schedule),
        "phases": [asdict(phase) for phase in phases],
    }
    probe = [_evaluated(b, tokenizer.pad_token_id) for b in _probe(held_out, phases[-1].mixture, encode, schedule)]
    state = _Progress()
    checkpoint = _newest_checkpoint(work)
    if checkpoint.is_dir():
        state = _restore(checkpoint, model, optimizers, settings)
        logger.info("Continuing from step %d (%d tokens).", state.step, state.tokens)
    wanted = _ends(phases)[-schedule.average :] if schedule.average > 1 else []
    _check_ends(work / "ends", [n for n in wanted if phases[n].until * schedule.tokens <= state.tokens])

    bfloat16 = _fast_bfloat16(device)

    def loss_of(replica: Any, ids: torch.Tensor, weights: torch.Tensor, total: float | None = None) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):  # a setting of the thread
            return _loss(replica, ids.to(device), weights.to(device), total)

    begin, window_tokens, window_begin = time.monotonic() - state.seconds, 0, time.monotonic()
    left = () if state.tokens >= schedule.tokens else _batches(sources, phases, encode, schedule, skip=state.step)
    for batch, phase in left:
        rate = _rate(state.tokens / schedule.tokens, schedule, phases)
        for group, peak in zip((g for o in optimizers for g in o.param_groups), peaks, strict=True):
            group["lr"] = peak * rate
        ids, weights = _batch(batch, tokenizer.pad_token_id, phase.prompt_share, phase.decision_weight)
        loss = workers.backward(partial(loss_of, total=weights[:, 1:].sum().item()), ids, weights)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        used = sum(len(e.ids) for e in batch)
        for number in _ends(phases):
            if state.tokens < phases[number].until * schedule.tokens <= state.tokens + used:
                _save_end(_end_file(work / "ends", number), model)
        state.step, state.tokens, window_tokens = state.step + 1, state.tokens + used, window_tokens + used
        done = state.tokens >= schedule.tokens
        if state.step % schedule.log_every == 0 or done:
            elapsed = time.monotonic() - window_begin
            figures = {
                "loss": loss.item(),
                "gradient_norm": norm.item(),
                "learning_rate": peaks[0] * rate,
                "tokens": float(state.tokens),
                "tokens_per_second": window_tokens / elapsed,
            }
            if state.step % schedule.evaluate_every == 0 or done:
                for number, name in enumerate(("eval_loss", "eval_decision_loss")):
                    items = [(ids, weights[number]) for ids, weights in probe]
                    losses = workers.evaluate(lambda replica, item: loss_of(replica, *item).item(), items)
                    figures[name] = sum(losses) / len(losses)
            state.history.append({"step": state.step, **figures})
            on_log(state.step, figures)
            seconds_left = (schedule.tokens - state.tokens) / figures["tokens_per_second"]
            logger.info(
                "step %d  %.2f of %.2fM tokens  loss %.3f%s  %.0f tokens/s  %.0f min left",
                state.step, state.tokens / 1e6, schedule.tokens / 1e6, figures["loss"],
                f"  eval {figures['eval_loss']:.3f}, decisions {figures['eval_decision_loss']:.3f}"
                if "eval_loss" in figures else "",
                figures["tokens_per_second"], max(0.0, seconds_left) / 60,
            )  # fmt: skip
            window_tokens, window_begin = 0, time.monotonic()
        state.seconds = time.monotonic() - begin
        if state.step % schedule.checkpoint_every == 0 or done:
            _save(checkpoint, model, optimizers, state, settings)
        if done:
            break
    workers.close()
    if wanted:
        _average(model, [_end_file(work / "ends", number) for number in wanted])
    base = work / "base"
    shutil.rmtree(base, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(base)
    tokenizer.save_pretrained(base)
    return {
        "history": state.history,
        "tokens": state.tokens,
        "steps": state.step,
        "seconds": round(state.seconds),
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": _describe(device),
    }


@dataclass
class _Progress:
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def _new_model(shape: Architecture, tokenizer: Any, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from odin_slm.pretraining import copy_heads as induction

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            initializer_range=shape.hidden**-0.5 / 2,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    induction.install(model, torch.Generator().manual_seed(seed))
    return model


def _optimizers(model: Any, schedule: Schedule, workers: DataParallel) -> list[torch.optim.Optimizer]:
    import torch

    from odin_slm.pretraining.copy_heads import circuit_parameters
    from odin_slm.pretraining.muon import Muon

    circuit = circuit_parameters(model)
    held = {id(p) for p in circuit}
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and id(p) not in held]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        Muon(matrices, lr=schedule.learning_rate, weight_decay=0.01, pool=workers.pool),
        torch.optim.AdamW(
            [
                {"params": others, "lr": schedule.embedding_learning_rate},
                {"params": circuit, "lr": schedule.circuit_learning_rate},
            ],
            betas=(0.9, 0.95),
            weight_decay=0.0,
        ),
    ]


def _encoder(tokenizer: Any, context: int) -> Callable[[Example], Encoded | None]:
    def encode(example: Example) -> Encoded | None:
        prompt = tokenizer(example.prompt, add_special_tokens=False)["input_ids"] if example.prompt else []
        completion = tokenizer(example.completion, add_special_tokens=False, return_offsets_mapping=True)
        ids = [*prompt, *completion["input_ids"], tokenizer.eos_token_id]
        if len(ids) > context:
            return None
        spans = completion["offset_mapping"]
        begins = [begin for begin, _ in spans]
        chosen = {bisect_right(begins, place) - 1 for place in decisions(example.completion)} if prompt else set()
        places = [len(prompt) + i for i in sorted(chosen)]
        given = [
            len(prompt) + i
            for i, (begin, end) in enumerate(spans)
            if any(begin < last and first < end for first, last in example.given)
        ]
        places += [place + 1 for place in given if place + 1 not in given]  # the way back
        return Encoded(ids, len(prompt), (*places, len(ids) - 1) if prompt else (), tuple(given))

    return encode


def _batches(
    sources: Sources,
    phases: Sequence[Phase],
    encode: Callable[[Example], Encoded | None],
    schedule: Schedule,
    *,
    skip: int = 0,
) -> Iterator[tuple[list[Encoded], Phase]]:
    """Yield batches of similar lengths, with their phase, for ever; ``skip`` of them are drawn and passed over."""
    pool_number = drawn = 0
    while True:
        phase = next((p for p in phases if drawn < p.until * schedule.tokens), phases[-1])
        rng = random.Random(f"{schedule.seed}-{pool_number}")
        pool: list[Encoded] = []
        total = 0
        while total < schedule.batch_tokens * _POOL_BATCHES:
            encoded = encode(draw(sources, phase.mixture, rng))
            if encoded is not None:
                pool.append(encoded)
                total += len(encoded.ids)
        drawn += total
        batches = _cut(sorted(pool, key=lambda e: len(e.ids)), schedule.batch_tokens)
        rng.shuffle(batches)
        for batch in batches:
            if skip:
                skip -= 1
            else:
                yield batch, phase
        pool_number += 1


def _cut(pool: list[Encoded], batch_tokens: int) -> list[list[Encoded]]:
    batches: list[list[Encoded]] = [[]]
    for encoded in pool:  # sorted by length, so that the newest is the longest
        if batches[-1] and (len(batches[-1]) + 1) * len(encoded.ids) > batch_tokens:
            batches.append([])
        batches[-1].append(encoded)
    return batches


def _batch(
    batch: list[Encoded], pad: int, prompt_share: float, decision_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and how much each counts in the loss, both (examples, length).

    Padding stands right, where causal attention ignores it. Logits over the vocabulary are a quarter of a small
    model's work, so only a share of the prompt's tokens teaches language; the draw is seeded by the tokens themselves.
    """
    import torch

    length = max(len(e.ids) for e in batch)
    ids = torch.full((len(batch), length), pad)
    weights = torch.zeros((len(batch), length))
    for row, encoded in enumerate(batch):
        ids[row, : len(encoded.ids)] = torch.tensor(encoded.ids)
        if prompt_share:
            generator = torch.Generator().manual_seed(sum(encoded.ids))
            weights[row, : encoded.prompt] = (torch.rand(encoded.prompt, generator=generator) < prompt_share).float()
        weights[row, encoded.prompt : len(encoded.ids)] = 1.0
        weights[row, list(encoded.decisions)] = decision_weight
        weights[row, list(encoded.given)] = 0.0
    return ids, weights


def _evaluated(batch: list[Encoded], pad: int) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Return token ids, and the weights of an evaluation of all completion tokens and of the decisions alone."""
    ids, every = _batch(batch, pad, 0.0, 1.0)
    _, others = _batch(batch, pad, 0.0, 0.0)
    return ids, (every, every - others)


def _loss(model: Any, ids: torch.Tensor, weights: torch.Tensor, total: float | None = None) -> torch.Tensor:
    """Weighted next-token cross-entropy, divided by ``total``, or by the sum of the weights.

    Logits are made for tokens of some weight alone.
    """
    import torch

    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    chosen = weights[:, 1:] > 0
    logits = model.lm_head(hidden[chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][chosen], reduction="none")
    counted = weights[:, 1:][chosen]
    return (losses * counted).sum() / (counted.sum() if total is None else total)


def _probe(
    held_out: Sources,
    mixture: Mapping[str, float],
    encode: Callable[[Example], Encoded | None],
    schedule: Schedule,
) -> list[list[Encoded]]:
    rng = random.Random(f"{schedule.seed}-probe")
    shares = {kind: share for kind, share in mixture.items() if kind != "language"}
    drawn = [encode(draw(held_out, shares, rng)) for _ in range(96)]
    return _cut(sorted((e for e in drawn if e), key=lambda e: len(e.ids)), schedule.batch_tokens)


def _rate(done: float, schedule: Schedule, phases: Sequence[Phase]) -> float:
    """Share of the peak rate: linear rise, plateau, linear fall; after a restart, a linear fall alone."""
    ends = [0.0, *(phase.until for phase in phases)]
    restarts = [(begin, phase) for begin, phase in zip(ends, phases, strict=False) if phase.restart]
    for begin, phase in reversed(restarts):
        if done >= begin:
            return phase.restart * max(0.0, phase.until - done) / (phase.until - begin)
    done /= restarts[0][0] if restarts else 1.0
    rise = min(1.0, (done + 1e-3) / schedule.warmup) if schedule.warmup else 1.0
    fall = min(1.0, max(0.0, 1.0 - done) / schedule.decay) if schedule.decay else 1.0
    return rise * fall


def _ends(phases: Sequence[Phase]) -> list[int]:
    """Return the phases at whose end the rates have fallen to zero: before each restart, and the last."""
    return [number for number, _ in enumerate(phases) if number + 1 == len(phases) or phases[number + 1].restart]


def _save_end(file: Path, model: Any) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    save_file({n: p.detach().contiguous() for n, p in model.named_parameters()}, new)
    os.replace(new, file)


def _end_file(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"


def _check_ends(folder: Path, numbers: Sequence[int]) -> None:
    """Refuse a run that could not make its mean, before it trains for hours.

    Raises:
        BackendError: The weights at an end that lies behind are missing: the run was begun before they were kept.
    """
    from odin_slm.core.errors import BackendError

    for number in numbers:
        if not _end_file(folder, number).is_file():
            raise BackendError(
                f"the weights at the end of phase {number + 1} are not there.",
                where=str(_end_file(folder, number)),
                fix="Lower pretraining.schedule.average, or train from the start.",
            )


def _average(model: Any, files: Sequence[Path]) -> None:
    """Give a model the mean of the weights in some files."""
    from safetensors.torch import load_file

    ends = [load_file(file) for file in files]
    for name, parameter in model.named_parameters():
        parameter.data.copy_(sum(end[name] for end in ends) / len(ends))


def _save(folder: Path, model: Any, optimizers: list[Any], state: _Progress, settings: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_file({n: p.detach().contiguous() for n, p in model.named_parameters()}, new / "model.safetensors")
    tensors = {}
    for number, optimizer in enumerate(optimizers):
        for key, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"{number}.{key}.{name}"] = value.contiguous()
    save_file(tensors, new / "optimizer.safetensors")
    (new / "progress.json").write_text(json.dumps({**asdict(state), "settings": settings}))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _newest_checkpoint(work: Path) -> Path:
    """Return where the checkpoint is, which a run that was killed while it replaced it has left under another name."""
    folder = work / "checkpoint"
    old = folder.with_name(folder.name + ".old")
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)
    return folder


def _restore(folder: Path, model: Any, optimizers: list[Any], settings: dict[str, Any]) -> _Progress:
    from safetensors.torch import load_file

    from odin_slm.core.errors import BackendError

    progress = json.loads((folder / "progress.json").read_text())
    if not _goes_on(progress.pop("settings"), json.loads(json.dumps(settings))):
        raise BackendError(
            "the checkpoint was made with another architecture, another schedule or other phases.",
            where=str(folder.parent),
            fix="Delete the folder to start afresh, or restore the parameters it was made with.",
        )
    weights = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weights[name])
    tensors = load_file(folder / "optimizer.safetensors")
    for number, optimizer in enumerate(optimizers):
        values = optimizer.state_dict()
        state: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            owner, parameter_key, name = key.split(".")
            if int(owner) == number:
                state.setdefault(int(parameter_key), {})[name] = tensor
        optimizer.load_state_dict({**values, "state": state})
    return _Progress(**progress)


def _goes_on(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a run of the new settings passes through the checkpoint of the old: equal, or prolonged by restarts."""

    def phases(settings: dict[str, Any]) -> list[dict[str, Any]]:
        longer = settings["schedule"]["tokens"] / old["schedule"]["tokens"]
        return [
            {
                **phase,
                "restart": phase.get("restart", 0.0),
                "until": round(phase["until"] * longer, 3),  # as shares of the old length
                "mixture": {name: share for name, share in phase["mixture"].items() if share},
            }
            for phase in settings["phases"]
        ]

    if old.get("architecture", new["architecture"]) != new["architecture"]:  # older checkpoints do not say it
        return False
    before, after = phases(old), phases(new)
    added = after[len(before) :]
    free = {"tokens": 0, "average": 1}  # neither changes what has been done
    same = {**old["schedule"], **free} == {**new["schedule"], **free} and after[: len(before)] == before
    prolonged = old["schedule"]["tokens"] != new["schedule"]["tokens"]
    return same and all(phase["restart"] for phase in added) and bool(added) == prolonged


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is in hardware; emulated, it is many times slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _describe(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"
