"""Training the embedded base from scratch, on a CPU or one CUDA device."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odin_slm.config.parameters import ArchitectureParams, PhaseParams, PretrainingParams, ScheduleParams
from odin_slm.pretraining import checkpoints, copy_heads
from odin_slm.pretraining.batches import (
    Encoded,
    batches,
    encoder,
    evaluation_batches,
    evaluation_tensors,
    tensors,
)
from odin_slm.pretraining.curriculum import Sources
from odin_slm.training.data_parallel import DataParallel

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def pretrain(
    sources: Sources,
    held_out: Sources,
    tokenizer_folder: Path,
    work: Path,
    params: PretrainingParams,
    on_log: Callable[[int, dict[str, float]], None],
) -> dict[str, Any]:
    """Train a base from scratch, or resume from the checkpoint in ``work``.

    Args:
        sources: Texts to learn from.
        held_out: Texts to evaluate on; they share no document with ``sources``.
        tokenizer_folder: Folder of the trained tokenizer.
        work: Folder for ``checkpoint/`` and the finished ``base/``.
        params: Architecture, schedule and phases.
        on_log: Called with the step and its figures at every log line.

    Returns:
        ``history`` (one entry per log line), ``tokens``, ``steps``, ``seconds``, ``parameters``, ``device``.

    Raises:
        BackendError: The checkpoint belongs to another run, or weights to be averaged are missing.
    """
    import torch
    from transformers import AutoTokenizer

    schedule = params.schedule
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    encode = encoder(tokenizer, params.architecture.context)
    model = new_model(params.architecture, tokenizer, schedule.seed)
    trainer = _Trainer(model, schedule, tokenizer.pad_token_id)
    progress = checkpoints.Progress()
    if (checkpoint := checkpoints.locate(work)).is_dir():
        progress = checkpoints.restore(checkpoint, model, trainer.optimizers, _settings(params))
        logger.info("Resuming from step %d (%d tokens).", progress.step, progress.tokens)
    averaged = _annealed_phases(params.phases)[-schedule.average :] if schedule.average > 1 else []
    passed = [number for number in averaged if params.phases[number].until * schedule.tokens <= progress.tokens]
    checkpoints.check_annealed(work, passed)
    if progress.tokens < schedule.tokens:
        drawn = batches(sources, params.phases, encode, schedule, skip=progress.step)
        probe = evaluation_batches(held_out, params.phases[-1].mixture.model_dump(), encode, schedule)
        _train(trainer, drawn, probe, progress, params, work, on_log)
    trainer.close()
    if averaged:
        checkpoints.average_annealed(work, averaged, model)
    base = work / "base"
    shutil.rmtree(base, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(base)
    tokenizer.save_pretrained(base)
    return {
        "history": progress.history,
        "tokens": progress.tokens,
        "steps": progress.step,
        "seconds": round(progress.seconds),
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": _describe(trainer.device),
    }


def _settings(params: PretrainingParams) -> dict[str, Any]:
    """Return the parameters that a checkpoint depends on."""
    return params.model_dump(include={"architecture", "schedule", "phases"}, mode="json")


def _train(
    trainer: _Trainer,
    drawn: Iterator[tuple[list[Encoded], PhaseParams]],
    probe: list[list[Encoded]],
    progress: checkpoints.Progress,
    params: PretrainingParams,
    work: Path,
    on_log: Callable[[int, dict[str, float]], None],
) -> None:
    """Train until the schedule's tokens are used up, with log lines, evaluations and checkpoints on the way."""
    schedule, phases = params.schedule, params.phases
    begin, window_tokens, window_begin = time.monotonic() - progress.seconds, 0, time.monotonic()
    for batch, phase in drawn:
        rate = _rate(progress.tokens / schedule.tokens, schedule, phases)
        loss, norm = trainer.step(batch, phase, rate)
        used = sum(len(encoded.ids) for encoded in batch)
        for number in _annealed_phases(phases):
            if progress.tokens < phases[number].until * schedule.tokens <= progress.tokens + used:
                checkpoints.save_annealed(work, number, trainer.model)
        progress.step, progress.tokens, window_tokens = progress.step + 1, progress.tokens + used, window_tokens + used
        done = progress.tokens >= schedule.tokens
        evaluating = progress.step % schedule.evaluate_every == 0 or done
        if evaluating or progress.step % schedule.log_every == 0:
            figures = {
                "loss": loss.item(),
                "gradient_norm": norm.item(),
                "learning_rate": schedule.learning_rate * rate,
                "tokens": float(progress.tokens),
                "tokens_per_second": window_tokens / (time.monotonic() - window_begin),
            }
            if evaluating:
                figures |= trainer.evaluate(probe)
            progress.history.append({"step": progress.step, **figures})
            on_log(progress.step, figures)
            _log(progress.step, figures, schedule)
            window_tokens, window_begin = 0, time.monotonic()
        progress.seconds = time.monotonic() - begin
        if progress.step % schedule.checkpoint_every == 0 or done:
            checkpoints.save(work, trainer.model, trainer.optimizers, progress, _settings(params))
        if done:
            return


def new_model(shape: ArchitectureParams, tokenizer: Any, seed: int) -> Any:
    """Return a Llama with fresh weights that can already copy; see :mod:`odin_slm.pretraining.copy_heads`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

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
    copy_heads.install(model, torch.Generator().manual_seed(seed))
    return model


class _Trainer:
    """A model with its replicas and optimizers: computes training steps and evaluations."""

    def __init__(self, model: Any, schedule: ScheduleParams, pad: int) -> None:
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        self._pad = pad
        self._bfloat16 = _fast_bfloat16(self.device)
        self._parallel = DataParallel(model, 1 if self.device.type == "cuda" else torch.get_num_threads())
        self.optimizers = _optimizers(model, schedule, self._parallel)
        self._peaks = [group["lr"] for group in self._groups()]

    def step(self, batch: list[Encoded], phase: PhaseParams, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Train on a batch at a share of the peak rates; return the loss and the norm of the gradient."""
        import torch

        for group, peak in zip(self._groups(), self._peaks, strict=True):
            group["lr"] = peak * rate
        ids, weights = tensors(batch, self._pad, phase.prompt_share, phase.decision_weight)
        loss = self._parallel.backward(partial(self._loss, total=weights[:, 1:].sum().item()), ids, weights)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def evaluate(self, probe: list[list[Encoded]]) -> dict[str, float]:
        """Return the mean loss over held-out batches, on all completion tokens and on the decisions alone."""
        figures = {}
        found = [evaluation_tensors(batch, self._pad) for batch in probe]
        for number, name in ((1, "eval_loss"), (2, "eval_decision_loss")):
            items = [(one[0], one[number]) for one in found]
            losses = self._parallel.evaluate(lambda replica, item: self._loss(replica, *item).item(), items)
            figures[name] = sum(losses) / len(losses)
        return figures

    def close(self) -> None:
        """End the threads."""
        self._parallel.close()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _loss(self, replica: Any, ids: torch.Tensor, weights: torch.Tensor, total: float | None = None) -> torch.Tensor:
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):  # is set per thread
            return weighted_loss(replica, ids.to(self.device), weights.to(self.device), total)


def weighted_loss(model: Any, ids: torch.Tensor, weights: torch.Tensor, total: float | None = None) -> torch.Tensor:
    """Return the weighted next-token cross-entropy, divided by ``total`` or else by the sum of the weights.

    Logits are computed only for tokens with a weight.
    """
    import torch

    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    chosen = weights[:, 1:] > 0
    logits = model.lm_head(hidden[chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][chosen], reduction="none")
    counted = weights[:, 1:][chosen]
    return (losses * counted).sum() / (counted.sum() if total is None else total)


def _optimizers(model: Any, schedule: ScheduleParams, parallel: DataParallel) -> list[torch.optim.Optimizer]:
    import torch

    from odin_slm.pretraining.muon import Muon

    circuit = copy_heads.circuit_parameters(model)
    in_circuit = {id(p) for p in circuit}
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and id(p) not in in_circuit]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        Muon(matrices, lr=schedule.learning_rate, weight_decay=0.01, pool=parallel.pool),
        torch.optim.AdamW(
            [
                {"params": others, "lr": schedule.embedding_learning_rate},
                {"params": circuit, "lr": schedule.circuit_learning_rate},
            ],
            betas=(0.9, 0.95),
            weight_decay=0.0,
        ),
    ]


def _rate(done: float, schedule: ScheduleParams, phases: Sequence[PhaseParams]) -> float:
    """Return the share of the peak rates: linear warm-up, plateau, linear decay; after a restart, linear decay only.

    Restarts are those of Loshchilov and Hutter (2017, "SGDR"). The phases before the first restart form a complete
    schedule, which a later run can extend.
    """
    ends = [0.0, *(phase.until for phase in phases)]
    restarts = [(begin, phase) for begin, phase in zip(ends, phases, strict=False) if phase.restart]
    for begin, phase in reversed(restarts):
        if done >= begin:
            return phase.restart * max(0.0, phase.until - done) / (phase.until - begin)
    done /= restarts[0][0] if restarts else 1.0
    rise = min(1.0, (done + 1e-3) / schedule.warmup) if schedule.warmup else 1.0
    fall = min(1.0, max(0.0, 1.0 - done) / schedule.decay) if schedule.decay else 1.0
    return rise * fall


def _annealed_phases(phases: Sequence[PhaseParams]) -> list[int]:
    """Return the phases at whose end the rates have fallen to zero: before every restart, and the last phase.

    Their weights can be averaged (stochastic weight averaging; Izmailov et al., 2018).
    """
    return [number for number, _ in enumerate(phases) if number + 1 == len(phases) or phases[number + 1].restart]


def _log(step: int, figures: dict[str, float], schedule: ScheduleParams) -> None:
    seconds_left = (schedule.tokens - figures["tokens"]) / figures["tokens_per_second"]
    logger.info(
        "step %d  %.2f of %.2fM tokens  loss %.3f%s  %.0f tokens/s  %.0f min left",
        step,
        figures["tokens"] / 1e6,
        schedule.tokens / 1e6,
        figures["loss"],
        f"  eval {figures['eval_loss']:.3f}, decisions {figures['eval_decision_loss']:.3f}"
        if "eval_loss" in figures
        else "",
        figures["tokens_per_second"],
        max(0.0, seconds_left) / 60,
    )


def _fast_bfloat16(device: torch.device) -> bool:
    """Tell whether the hardware computes in bfloat16; emulated, it is many times slower than float32."""
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
