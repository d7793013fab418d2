"""Callbacks of the Trainer: progress with rate and remaining time, sample outputs, old checkpoints, early stopping."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.record import Record, full_text
from odin_slm.models.backends import Name
from odin_slm.models.base_model import causal_of
from odin_slm.models.tokens import completion_ids, end_tokens, prompt_ids
from odin_slm.training import checkpoints
from odin_slm.training.task_metric import undisturbed

logger = logging.getLogger(__name__)


class Progress:
    """Shows the figures of a run: a progress bar on a terminal, log lines elsewhere.

    Args:
        steps: Optimizer steps of the run.
        step_tokens: Mean number of tokens in a step.
        on_log: Called with the step and its figures.
        shown: Names of the figures to show.
    """

    def __init__(
        self,
        steps: int,
        step_tokens: float,
        on_log: Callable[[int, dict[str, float]], None],
        shown: Sequence[str] = ("loss", "eval_loss"),
    ) -> None:
        self._names = shown
        self._steps = steps
        self._step_tokens = step_tokens
        self._on_log = on_log
        self._bar: Any = None
        self._shown: dict[str, float] = {}

    def begin(self, step: int) -> None:
        """Start the clock at the step from which the run starts or resumes."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._started, self._first = time.monotonic(), step
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (
                *(TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}")),
                *(TimeElapsedColumn(), TimeRemainingColumn()),
            )
            self._bar = Bar(*columns, console=console, transient=True)
            self._task = self._bar.add_task("training", total=self._steps, completed=step, figures="")
            self._bar.start()

    def step(self, step: int) -> None:
        """Move the bar; without one, the second step tells how long the run will take."""
        if self._bar:
            self._bar.update(self._task, completed=step, figures=self._figures(step))
        elif step == self._first + 2:  # the first one prepares memory and says little about the others
            logger.info("about %.0f minutes of training left, validations aside", self._left(step) / 60)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Show and report figures."""
        self._shown |= {name: figures[name] for name in self._names if name in figures}
        if self._bar:
            self.step(step)
        else:
            logger.info("step %d of %d  %s  %.0f s left", step, self._steps, self._figures(step), self._left(step))
        self._on_log(step, figures)

    def end(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _left(self, step: int) -> float:
        """Return the seconds that the remaining steps will take at the rate so far."""
        elapsed = time.monotonic() - self._started
        return elapsed / max(1, step - self._first) * (self._steps - step)

    def _figures(self, step: int) -> str:
        rate = (step - self._first) * self._step_tokens / max(time.monotonic() - self._started, 1e-9)
        return "  ".join([*(f"{name} {value:.3f}" for name, value in self._shown.items()), f"{rate:,.0f} tokens/s"])


def callbacks(
    params: TrainingParams, progress: Progress, tokenizer: Any, samples: Sequence[Record], backend: Name
) -> list[Any]:
    """Return the callbacks of the Trainer.

    Args:
        params: Hyper-parameters.
        progress: Shows the figures.
        tokenizer: The base's tokenizer.
        samples: Validation records for which an output is generated at each evaluation.
        backend: The backend that loaded the model.
    """
    from transformers import EarlyStoppingCallback, TrainerCallback

    class Reporter(TrainerCallback):
        """Passes on what the Trainer reports in the first of several processes, and spares a needless evaluation."""

        def on_train_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.is_world_process_zero:
                progress.begin(state.global_step)

        def on_step_end(self, _args: Any, state: Any, control: Any, **__: Any) -> None:
            _leave_out_shortly_before_the_end(params, state, control)
            if state.is_world_process_zero:
                progress.step(state.global_step)

        def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
            figures = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
            if figures and "train_runtime" not in figures and state.is_world_process_zero:
                progress.log(state.global_step, figures)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            progress.end()

    class Sampler(TrainerCallback):
        """Adds sample outputs to the log history, which a resumed run keeps."""

        def on_evaluate(self, args: Any, state: Any, _control: Any, model: Any = None, **__: Any) -> None:
            sharded = args.fsdp or args.deepspeed  # generating would then need every process
            if samples and state.is_world_process_zero and not sharded:
                written = sample_outputs(model, tokenizer, samples, backend)
                state.log_history.append({"step": state.global_step, "samples": written})

    class Rotation(TrainerCallback):
        """Removes old checkpoints; the best one stays and, until the training ends, the newest."""

        def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            self._rotate(args, state, {f"checkpoint-{state.global_step}"})

        def on_train_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if params.save_total_limit == 1 and state.best_model_checkpoint:
                self._rotate(args, state, set())

        def _rotate(self, args: Any, state: Any, kept: set[str]) -> None:
            if args.should_save:
                best = {Path(state.best_model_checkpoint).name} if state.best_model_checkpoint else set()
                checkpoints.rotate(Path(args.output_dir).parent, params.save_total_limit, kept | best)

    early = [EarlyStoppingCallback(params.early_stopping_patience)] if params.early_stopping_patience else []
    return [Reporter(), Sampler(), Rotation(), *early]


def _leave_out_shortly_before_the_end(params: TrainingParams, state: Any, control: Any) -> None:
    """Cancel an evaluation that the one at the end follows within half an interval."""
    if params.eval_steps is None and 0 < 2 * (state.max_steps - state.global_step) < state.eval_steps:
        control.should_evaluate = False
        control.should_save &= params.save_steps is not None


def sample_outputs(model: Any, tokenizer: Any, records: Sequence[Record], backend: Name) -> list[dict[str, str]]:
    """Return the model's greedy output for each record, as ``id``, ``gold`` and ``prediction``.

    An output may have 1.25 times the tokens of the gold output plus 16. It is written by transformers' own loop, which
    a model in training has whatever loaded it and wraps it; a few samples need no faster one.
    """
    import torch
    from transformers import GenerationConfig

    written = []
    for record in records:
        prompt, gold = full_text(record)
        ids = torch.tensor([prompt_ids(tokenizer, prompt)], device=next(model.parameters()).device)
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=round(1.25 * len(completion_ids(tokenizer, gold))) + 16,
            eos_token_id=sorted(end_tokens(causal_of(model), tokenizer)),
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
        )
        with torch.no_grad(), undisturbed(model, backend):
            output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        written.append({"id": record["id"], "gold": gold, "prediction": text})
    return written


OnLog = Callable[[int, Mapping[str, float]], None]


def with_throughput(tokens: int, on_log: OnLog) -> OnLog:
    """Return a function that adds ``tokens_per_second`` since the last line to a step's figures.

    Args:
        tokens: Tokens of the training split; figures name the passes over it so far as ``epoch``.
        on_log: Takes the step and its figures.
    """
    since: float | None = None
    passes = 0.0

    def log(step: int, figures: Mapping[str, float]) -> None:
        nonlocal since, passes
        now = time.monotonic()
        if "eval_loss" in figures:  # the time since the last line was validation's
            since = None if since is None else since + figures.get("eval_runtime", 0.0)
        elif "epoch" in figures:
            if since is not None and now > since and figures["epoch"] > passes:
                figures = {**figures, "tokens_per_second": (figures["epoch"] - passes) * tokens / (now - since)}
            since, passes = now, figures["epoch"]
        on_log(step, figures)

    return log
