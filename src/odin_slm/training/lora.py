"""LoRA training behind one interface: tokens and mask are ours, the loop is TRL's."""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError, DeviceMemoryError
from odin_slm.core.record import Record
from odin_slm.models import backends, preflight
from odin_slm.models.base_model import BaseModel, load_tokenizer
from odin_slm.training import checkpoints
from odin_slm.training.callbacks import Progress, callbacks
from odin_slm.training.collation import Collator, check_mask, dataset_of, tokenise
from odin_slm.training.data_parallel_steps import threads_of, with_threads
from odin_slm.training.launcher import launch
from odin_slm.training.packing import capacity_of, packs, with_packing

logger = logging.getLogger(__name__)


def train_lora(
    base: BaseModel,
    train: Sequence[Record],
    validation: Sequence[Record],
    work: Path,
    params: TrainingParams,
    on_log: Callable[[int, dict[str, float]], None],
) -> tuple[Path, dict[str, Any]]:
    """Train a LoRA adapter on records and keep the checkpoint with the least validation loss.

    Args:
        base: The frozen base model.
        train: Training records.
        validation: Validation records.
        work: Folder for checkpoints and the finished ``adapter/``; emptied first, unless ``params.resume``.
        params: Hyper-parameters.
        on_log: Called with the step and its figures whenever some are logged.

    Returns:
        Folder with the adapter and its tokenizer, and the state of training.

    Raises:
        RecordTooLongError: A record exceeds ``max_seq_length``.
        DeviceMemoryError: The device's memory ran out, with half the batch too where ``params.oom`` is ``halve``.
        BackendError: The machine cannot do what the parameters ask for, another training is using ``work``, or
            ``params.resume`` meets checkpoints of other data, parameters or another base.
    """
    backend = backends.choose(params)
    apart = params.launcher == "accelerate" or backends.needs_process(backend)
    run = launch if apart else train_here
    if params.resume:
        params = params.model_copy(update=checkpoints.noted_split(work))
    if params.batch_size == "auto":
        job = preflight.check(base, params).job
        params = params.model_copy(
            update={"batch_size": job.batch_size, "gradient_accumulation_steps": job.accumulation}
        )
    with _alone_in(work):
        try:
            return run(base, train, validation, work, params, on_log, backend)
        except DeviceMemoryError as error:
            if params.oom == "fail" or int(params.batch_size) % 2:
                raise
            half = int(params.batch_size) // 2
            accumulation = params.gradient_accumulation_steps * 2
            logger.warning("%s Trying once more with batches of %d, %d for a step.", error.what, half, accumulation)
            params = params.model_copy(update={"batch_size": half, "gradient_accumulation_steps": accumulation})
        return run(base, train, validation, work, params, on_log, backend)


@contextmanager
def _alone_in(work: Path) -> Iterator[None]:
    """Keep a second training out of the folder: it would empty it, and the first end in some other adapter."""
    from filelock import FileLock, Timeout

    work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.with_name(f".{work.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BackendError(
            "another training is using this folder.",
            where=str(work),
            fix="Wait until it has ended, or train as another experiment: --env NAME.",
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held, so that nobody else's is removed
        lock.release()


def train_here(
    base: BaseModel,
    train: Sequence[Record],
    validation: Sequence[Record],
    work: Path,
    params: TrainingParams,
    on_log: Callable[[int, dict[str, float]], None],
    backend: backends.Name,
) -> tuple[Path, dict[str, Any]]:
    """Train in this process, as one of several where a launcher started it; see :func:`train_lora`."""
    backends.prepare(backend)
    import torch
    from transformers import set_seed
    from trl import SFTTrainer

    from odin_slm.training import lm_head

    lm_head.install()
    set_seed(params.seed)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    tokenizer = load_tokenizer(base)
    train_rows = tokenise(tokenizer, train, params.max_seq_length)
    chosen = list(validation)
    if params.validation_samples and len(chosen) > params.validation_samples:
        chosen = random.Random(params.seed).sample(chosen, params.validation_samples)
    validation_rows = tokenise(tokenizer, chosen, params.max_seq_length)
    check_mask(tokenizer, train, train_rows)

    steps = total_steps(len(train_rows), params, processes)
    arguments = _arguments(params, work, steps)
    if arguments.device.type == "cpu":
        # in several processes it is cpu:0, to which torch.load cannot restore an optimizer
        arguments.__dict__["_setup_devices"] = torch.device("cpu")
    if arguments.process_index == 0:
        split = {key: getattr(params, key) for key in ("batch_size", "gradient_accumulation_steps")}
        job = checkpoints.digest_of(base, params, [train_rows, validation_rows], processes)
        checkpoints.prepare(work, job, split, resume=params.resume)
    arguments.distributed_state.wait_for_everyone()
    checkpoint = checkpoints.newest(work)
    if checkpoint:
        logger.info("Continuing from %s.", checkpoint.name)
    mean_tokens = sum(len(row["input_ids"]) for row in train_rows) / len(train_rows)
    step_tokens = mean_tokens * int(params.batch_size) * params.gradient_accumulation_steps * processes
    trainer: Any = None
    model: Any = None
    workers = None
    packing = False
    lacking: str | None = None
    begin = time.monotonic()
    try:
        model = backends.with_adapter(backend, base, params)
        workers = threads_of(model, params, processes)
        # without padding to save, a group of rows in one is no gain
        packing = (params.packing is True or not workers) and packs(model, train_rows, params, backend)
        kind = with_threads(SFTTrainer, workers, packing)
        if packing and not workers:
            kind = with_packing(kind, capacity_of(model, params, backend), backend)
        trainer = kind(
            model=model,
            args=arguments,
            train_dataset=dataset_of(train_rows),
            eval_dataset=dataset_of(validation_rows),
            processing_class=tokenizer,
            data_collator=Collator(tokenizer.pad_token_id),
            callbacks=callbacks(
                params, Progress(steps, step_tokens, on_log), tokenizer, chosen[: params.generation_samples], backend
            ),
        )
        _silence(trainer)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if not any("eval_loss" in entry for entry in trainer.state.log_history):
            trainer.evaluate()
    except torch.OutOfMemoryError as error:
        lacking = str(error).split(". ")[0]
    finally:
        if workers:
            workers.close()
    if lacking is not None:
        # raised out here, where no traceback holds the tensors any more
        trainer = workers = model = None
        gc.collect()
        torch.cuda.empty_cache()
        raise DeviceMemoryError(
            f"the device's memory ran out ({lacking}).",
            where=f"training.batch_size={params.batch_size}",
            fix="Lower training.batch_size and raise training.gradient_accumulation_steps (training.oom=halve does), "
            "set training.gradient_checkpointing=true, or lower training.max_seq_length.",
        )
    seconds = time.monotonic() - begin
    canary = _check_canary(trainer.model, validation_rows[0])
    adapter = save_adapter(trainer, tokenizer, base, work / "adapter")
    entries = [dict(entry) for entry in trainer.state.log_history if "train_runtime" not in entry]
    history = _finite([entry for entry in entries if "samples" not in entry])
    scored = [entry for entry in history if "eval_loss" in entry]
    if not scored:
        raise BackendError(
            "the validation loss was never finite.", where="training", fix="Lower training.learning_rate."
        )
    kept = min(scored, key=lambda entry: entry["eval_loss"]) if params.load_best_model_at_end else scored[-1]
    resumed_from = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    done = trainer.state.global_step
    tokens = round(step_tokens * (done - resumed_from))
    return adapter, {
        "history": history,
        "samples": [entry for entry in entries if "samples" in entry],
        "steps": done,
        "stopped_early": done < steps,
        "resumed_from_step": resumed_from or None,
        "best_step": kept["step"],
        "best_eval_loss": kept["eval_loss"],
        "canary": {"record": chosen[0]["id"], "largest_change": canary},
        "train_records": len(train_rows),
        "validation_records": len(validation_rows),
        "seconds": round(seconds, 1),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "all_parameters": sum(p.numel() for p in trainer.model.parameters()),
        "base_model": base.source,
        "backend": backend,
        "processes": processes,
        "packing": packing,
        "hyperparameters": params.model_dump(mode="json", exclude={"accelerate_config", "report_to"}),
    }


def total_steps(records: int, params: TrainingParams, processes: int = 1) -> int:
    """Return the number of optimizer steps."""
    batches = math.ceil(records / (int(params.batch_size) * processes))
    steps = math.ceil(math.ceil(batches / params.gradient_accumulation_steps) * params.epochs)
    return min(steps, params.max_steps or steps)


def save_adapter(trainer: Any, tokenizer: Any, base: BaseModel, folder: Path) -> Path:
    """Save adapter and tokenizer as PEFT and the tokenizer do, naming the base as the user did.

    Of several processes, the first one writes.

    Raises:
        BackendError: A weight is not finite.
    """
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
    if broken:
        raise BackendError(
            f"{len(broken)} adapter weights are not finite after training, {broken[0]} among them.",
            where="training",
            fix="Lower training.learning_rate.",
        )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.args.process_index:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    # the vocabulary is never resized, and PEFT's own check would look for the base on the network
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, state_dict=weights)
    tokenizer.save_pretrained(folder)
    file = folder / "adapter_config.json"
    configuration = json.loads(file.read_text(encoding="utf-8"))
    # as the user named it: PEFT notes where it was loaded from, which is a path of this machine
    configuration |= {"base_model_name_or_path": base.source, "revision": base.revision}
    file.write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template; the release writes the real card
    return folder


def _arguments(params: TrainingParams, work: Path, steps: int) -> Any:
    from trl import SFTConfig

    every = params.eval_steps or max(1, steps // params.evaluations)
    precision = backends.precision(params)
    return SFTConfig(
        output_dir=str(work / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=int(params.batch_size),
        per_device_eval_batch_size=int(params.batch_size) * 2,
        gradient_accumulation_steps=params.gradient_accumulation_steps,
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.scheduler,
        warmup_steps=math.ceil(steps * params.warmup_ratio) if params.warmup_steps is None else params.warmup_steps,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        optim=backends.optimizer(params),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        gradient_checkpointing=params.gradient_checkpointing,
        # Grouped by length, the short outputs ("None") share batches of few tokens, and the mean over a batch's
        # tokens then weighs their one decision several times over: the model learns to answer nothing.
        train_sampling_strategy="random",
        logging_strategy=params.logging_strategy,
        logging_steps=params.logging_steps,
        eval_strategy=params.eval_strategy,
        eval_steps=every,
        save_strategy=params.save_strategy,
        save_steps=params.save_steps or every,
        save_total_limit=params.save_total_limit,
        load_best_model_at_end=params.load_best_model_at_end,
        metric_for_best_model=params.metric_for_best_model,
        greater_is_better=False,
        max_length=None,
        packing=False,
        padding_free=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        prediction_loss_only=True,
        dataloader_pin_memory=False,
        use_cpu=not backends.cuda(),
        report_to=list(params.report_to),
        disable_tqdm=True,
        neftune_noise_alpha=params.neftune_noise_alpha,
        seed=params.seed,
        data_seed=params.seed,
    )


def _finite(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the history without figures that are not finite, which no JSON file can hold.

    A run that diverges has them after its best checkpoint, one in float16 at the steps that its loss scaler skips.
    """
    kept = [{k: v for k, v in entry.items() if not isinstance(v, float) or math.isfinite(v)} for entry in history]
    lacking = sorted({k for old, new in zip(history, kept, strict=True) for k in old.keys() - new.keys()})
    if lacking:
        logger.warning(
            "Not finite at %d of %d log lines: %s. A lower training.learning_rate may help.",
            sum(old != new for old, new in zip(history, kept, strict=True)),
            len(history),
            ", ".join(lacking),
        )
    return kept


def _check_canary(model: Any, row: dict[str, list[int]]) -> float:
    """Return how far the adapter moves the last hidden states of a row at most.

    Raises:
        BackendError: It moves nothing: it is not applied, or has learned nothing.
    """
    import torch

    model.eval()
    causal = model.get_base_model()
    ids = torch.tensor([row["input_ids"]], device=next(model.parameters()).device)
    with torch.no_grad():
        tuned = causal.get_decoder()(input_ids=ids).last_hidden_state
        with model.disable_adapter():
            plain = causal.get_decoder()(input_ids=ids).last_hidden_state
    change = float((tuned.float() - plain.float()).abs().max())
    if change == 0.0:
        raise BackendError(
            "the trained adapter changes nothing in what the base computes.",
            where="training",
            fix="Train for more steps than warm-up has, or raise training.learning_rate.",
        )
    return change


def _silence(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
