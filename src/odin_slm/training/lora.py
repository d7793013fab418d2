"""Training of an adapter or of all weights: tokens and loss mask are our own, the training loop is TRL's."""

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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError, DeviceMemoryError
from odin_slm.core.record import Record
from odin_slm.models import backends, preflight
from odin_slm.models.base_model import BaseModel, causal_of, load_tokenizer, model_digest
from odin_slm.tasks import Task
from odin_slm.training import checkpoints
from odin_slm.training.callbacks import Progress, callbacks
from odin_slm.training.collation import Collator, check_mask, dataset_of, tokenise
from odin_slm.training.cpu_step import cpu_step_of, with_cpu_step
from odin_slm.training.initial_adapter import describe_initial, load_initial
from odin_slm.training.last_batches import by_tokens, without_repeats
from odin_slm.training.launcher import launch
from odin_slm.training.machines import agree, machines_of
from odin_slm.training.packing import capacity_of, packs, with_packing
from odin_slm.training.task_metric import TaskMetric, with_task_metric
from odin_slm.training.work_folders import keep_on_each_machine, same_checkpoint

logger = logging.getLogger(__name__)

_ONE_FILE = "1TB"
"""Size of a weights file, at most: none is cut, so that one hash stands for a trained model."""


def train_lora(
    base: BaseModel,
    train: Sequence[Record],
    validation: Sequence[Record],
    work: Path,
    params: TrainingParams,
    on_log: Callable[[int, dict[str, float]], None],
    task: Task | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train an adapter, or all weights, and keep the best checkpoint, by validation loss or by the task's own metric.

    Args:
        base: The base model.
        train: Training records.
        validation: Validation records.
        work: Folder for the checkpoints and the finished ``adapter/``, a whole model where ``params.method`` is
            ``full``. It is emptied first, unless ``params.resume``.
        params: Hyper-parameters.
        on_log: Called with the step and its figures at every log line.
        task: What ``params.metric_for_best_model: task`` reads and scores outputs with.

    Returns:
        The folder with the adapter, or the model, and its tokenizer, and the state of the training.

    Raises:
        RecordTooLongError: A record exceeds ``max_seq_length``.
        AdapterError: ``params.from_adapter`` holds none, or another than this training can go on from.
        DeviceMemoryError: The device ran out of memory; if ``params.oom`` is ``halve``, with half the batch as well.
        BackendError: The machine cannot do what the parameters ask for, another training is using ``work``, or
            ``params.resume`` finds checkpoints of other data, other parameters or another base.
        ValueError: ``params`` choose by the task, and there is none.
    """
    if params.metric_for_best_model == "task" and task is None:
        raise ValueError("metric_for_best_model: task needs the task.")
    backend = backends.choose(params)
    run = launch if params.launcher == "accelerate" or backends.needs_process(backend) else train_here
    if params.resume:
        params = checkpoints.as_noted(work, params)
    params = params.model_copy(update={"precision": backends.precision(params)})  # once, for all processes
    if run is train_here:
        params = checkpoints.shared_out(work, params, 1)
    if params.batch_size == "auto":
        job = preflight.check(base, params).job
        params = params.model_copy(
            update={"batch_size": job.batch_size, "gradient_accumulation_steps": job.accumulation}
        )
    with _lock(work):
        try:
            return run(base, train, validation, work, params, on_log, backend, task)
        except DeviceMemoryError as error:
            if params.oom == "fail" or int(params.batch_size) % 2 or machines_of(params):
                raise
            half = int(params.batch_size) // 2
            accumulation = params.gradient_accumulation_steps * 2
            logger.warning("%s Retrying with batches of %d and %d accumulation steps.", error.what, half, accumulation)
            params = params.model_copy(update={"batch_size": half, "gradient_accumulation_steps": accumulation})
        return run(base, train, validation, work, params, on_log, backend, task)


@contextmanager
def _lock(work: Path) -> Iterator[None]:
    """Hold the folder's lock: a second training would empty the folder while the first is still running."""
    from filelock import FileLock, Timeout

    work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.with_name(f".{work.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BackendError(
            "another training is using this folder.",
            where=str(work),
            fix="Wait until it has finished, or train as another experiment: --env NAME.",
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before the release: afterwards it may be another process's lock
        lock.release()


def train_here(
    base: BaseModel,
    train: Sequence[Record],
    validation: Sequence[Record],
    work: Path,
    params: TrainingParams,
    on_log: Callable[[int, dict[str, float]], None],
    backend: backends.Name,
    task: Task | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train in this process, which may be one of several that a launcher started; see :func:`train_lora`."""
    _prepare(backend, params.seed)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    initial = describe_initial(base, params)
    tokenizer = load_tokenizer(base)
    chosen_by = params.metric_for_best_model
    metric = TaskMetric(task, validation, tokenizer, params, backend) if task and chosen_by == "task" else None
    validation = [task.taught(one) if task else one for one in _sampled(validation, params)]
    train_rows = tokenise(tokenizer, train, params.max_seq_length)
    validation_rows = tokenise(tokenizer, validation, params.max_seq_length)
    check_mask(tokenizer, train, train_rows)

    steps = total_steps(len(train_rows), params, processes)
    mean_tokens = sum(len(row["input_ids"]) for row in train_rows) / len(train_rows)
    step_tokens = mean_tokens * int(params.batch_size) * params.gradient_accumulation_steps * processes
    arguments = _arguments(params, work, steps, metric)
    decisive = [train_rows, validation_rows, *([metric.described()] if metric else [])]
    decisive += [[initial["adapter_sha256"]]] if initial else []
    checkpoint = _resume_point(work, base, params, arguments, decisive, processes)
    progress = Progress(steps, step_tokens, on_log, ("loss", "eval_loss", *([metric.key] if metric else [])))
    watching = callbacks(params, progress, tokenizer, validation[: params.generation_samples], backend)
    begin = time.monotonic()
    trainer, step, before = _within_memory(
        params,
        *(base, params, backend, processes, arguments, tokenizer, train_rows, validation_rows, watching),
        *(checkpoint, metric),
    )
    seconds = time.monotonic() - begin
    canary = _check_canary(trainer.model, validation_rows[0], before)
    adapter = save_trained(trainer, tokenizer, base, work / "adapter")
    outcome = _outcome(trainer, params, steps, checkpoint, metric)
    tokens = round(step_tokens * (outcome["steps"] - (outcome["resumed_from_step"] or 0)))
    return adapter, {
        **outcome,
        "canary": {"record": validation[0]["id"], "largest_change": canary},
        "train_records": len(train_rows),
        "validation_records": len(validation_rows),
        "seconds": round(seconds, 1),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "base_model": base.source,
        "backend": backend,
        "precision": backends.precision(params),
        "processes": processes,
        **({"from_adapter": initial} if initial else {}),
        **step,
        "hyperparameters": _hyperparameters(params),
    }


def _hyperparameters(params: TrainingParams) -> dict[str, Any]:
    """Return the settings without paths of this machine, and without what the method ignores."""
    unused = ["lora"] if params.method == "full" else []
    return params.model_dump(mode="json", exclude={"accelerate_config", "from_adapter", "report_to", *unused})


def _prepare(backend: backends.Name, seed: int) -> None:
    backends.prepare(backend)
    import torch
    from transformers import set_seed

    from odin_slm.training import lm_head

    lm_head.install()
    set_seed(seed)
    # Once a number is set, products are shared out otherwise, and generation sets one: a run that did not would end in
    # other last digits than one that was resumed after it, or that writes outputs at its validations.
    torch.set_num_threads(torch.get_num_threads())


def _sampled(validation: Sequence[Record], params: TrainingParams) -> list[Record]:
    records = list(validation)
    if params.validation_samples and len(records) > params.validation_samples:
        return random.Random(params.seed).sample(records, params.validation_samples)
    return records


def _resume_point(
    work: Path, base: BaseModel, params: TrainingParams, arguments: Any, rows: list[Any], processes: int
) -> Path | None:
    """Prepare the folder, in one process that has it; return the checkpoint to resume from, if there is one."""
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    digest = checkpoints.digest_of(base, params, rows, processes) if several or arguments.should_save else ""
    if several:
        agree(_found_here(base, params, digest))
        keep_on_each_machine(work, arguments)
    if arguments.should_save:
        settings = {key: getattr(params, key) for key in ("batch_size", "gradient_accumulation_steps", "precision")}
        checkpoints.prepare(work, digest, settings, processes, resume=params.resume)
    arguments.distributed_state.wait_for_everyone()
    checkpoint = same_checkpoint(work, arguments) if several else checkpoints.newest(work)
    if checkpoint:
        logger.info("Resuming from %s.", checkpoint.name)
    return checkpoint


def _found_here(base: BaseModel, params: TrainingParams, digest: str) -> dict[str, str]:
    """Return what has to be equal on all machines and each finds by itself: where it is set -> what it is here."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate")
    return {
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
        "base_model": f"{base.source}, {base.revision or ''} {model_digest(base)[:23]}",
        "training.precision": backends.precision(params),
        "training.from_adapter": f"a job with the digest {digest[:16]}",  # of all else, only this is each machine's own
    }


def _fit(
    base: BaseModel,
    params: TrainingParams,
    backend: backends.Name,
    processes: int,
    arguments: Any,
    tokenizer: Any,
    train_rows: list[dict[str, list[int]]],
    validation_rows: list[dict[str, list[int]]],
    watching: list[Any],
    checkpoint: Path | None,
    metric: TaskMetric | None,
) -> tuple[Any, dict[str, bool], Any]:
    """Train to the end; return the trainer, which step was used, and the base's states for the canary."""
    from transformers import PrinterCallback
    from trl import SFTTrainer

    model = backends.with_adapter(backend, base, params)
    load_initial(model, params)
    before = _last_states(model, validation_rows[0])
    step = cpu_step_of(model, params, processes)
    try:
        trainer_class = by_tokens(with_cpu_step(SFTTrainer, step), validation_rows)
        packing = step is None and packs(model, train_rows, params, backend)
        if processes > 1:
            trainer_class = without_repeats(trainer_class)
        if packing:
            trainer_class = with_packing(trainer_class, capacity_of(model, params, backend), backend)
        trainer = with_task_metric(trainer_class, metric)(
            model=model,
            args=arguments,
            train_dataset=dataset_of(train_rows),
            eval_dataset=dataset_of(validation_rows),
            processing_class=tokenizer,
            data_collator=Collator(tokenizer.pad_token_id),
            callbacks=watching,
        )
        backends.keep_adapter_precision(model, params)
        trainer.remove_callback(PrinterCallback)
        if (
            checkpoint
            and checkpoints.is_finished(checkpoint)
            and not trainer.is_fsdp_enabled | trainer.is_deepspeed_enabled
        ):
            _take_over(trainer, checkpoint, best=params.load_best_model_at_end)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if not any("eval_loss" in entry for entry in trainer.state.log_history):
            trainer.evaluate()
    finally:
        if step:
            step.close()
    return trainer, {"cpu_step": step is not None, "packing": packing}, before


def _take_over(trainer: Any, checkpoint: Path, *, best: bool) -> None:
    """Load state and weights of a run that had reached its end: the Trainer would go on beyond it."""
    from transformers import TrainerState

    logger.info("%s is the end of that training: nothing is left to train.", checkpoint.name)
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    chosen = trainer.state.best_model_checkpoint if best else None
    trainer._load_from_checkpoint(str(checkpoint.with_name(Path(chosen).name) if chosen else checkpoint))


def _within_memory(params: TrainingParams, *job: Any) -> tuple[Any, dict[str, bool], Any]:
    """Return what :func:`_fit` does; where the device's memory runs out, free it for a retry.

    Raises:
        DeviceMemoryError: The memory ran out.
    """
    import torch

    try:
        return _fit(*job)
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
    gc.collect()  # outside ``except``, whose traceback keeps the tensors alive
    torch.cuda.empty_cache()
    raise DeviceMemoryError(
        f"the device ran out of memory ({reason}).",
        where=f"training.batch_size={params.batch_size}",
        fix="Lower training.batch_size and raise training.gradient_accumulation_steps (training.oom=halve does that), "
        "set training.gradient_checkpointing=true, or lower training.max_seq_length.",
    )


def _outcome(
    trainer: Any, params: TrainingParams, steps: int, checkpoint: Path | None, metric: TaskMetric | None
) -> dict[str, Any]:
    """Return the outcome of a training: history, samples, steps, the step whose adapter was kept, and sizes.

    Raises:
        BackendError: The validation loss was never finite.
    """
    entries = [dict(entry) for entry in trainer.state.log_history if "train_runtime" not in entry]
    history = _finite([entry for entry in entries if "samples" not in entry])
    scored = [entry for entry in history if (metric.key if metric else "eval_loss") in entry]
    if not scored:
        raise BackendError(
            "the validation loss was never finite.", where="training", fix="Lower training.learning_rate."
        )
    kept = scored[-1]
    if params.load_best_model_at_end:
        kept = metric.best(scored) if metric else min(scored, key=lambda entry: entry["eval_loss"])
    return {
        "history": history,
        "samples": [entry for entry in entries if "samples" in entry],
        "steps": trainer.state.global_step,
        "stopped_early": trainer.state.global_step < steps,
        "resumed_from_step": checkpoints.step_of(checkpoint) if checkpoint else None,
        "best_step": kept["step"],
        "best_eval_loss": kept["eval_loss"],
        **({"task_metric": metric.summary(kept)} if metric else {}),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "all_parameters": sum(p.numel() for p in trainer.model.parameters()),
    }


def total_steps(records: int, params: TrainingParams, processes: int = 1) -> int:
    """Return the number of optimizer steps."""
    batches = math.ceil(records / (int(params.batch_size) * processes))
    return params.max_steps or math.ceil(math.ceil(batches / params.gradient_accumulation_steps) * params.epochs)


def save_trained(trainer: Any, tokenizer: Any, base: BaseModel, folder: Path) -> Path:
    """Save the adapter in PEFT's format, or the whole model in that of transformers, and the tokenizer in its own.

    An adapter names its base as the user named it.

    Only the first of several processes writes.

    Raises:
        BackendError: A weight is not finite.
    """
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
    if broken:
        raise BackendError(
            f"{len(broken)} trained weights are not finite after training, {broken[0]} among them.",
            where="training",
            fix="Lower training.learning_rate.",
        )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.args.process_index:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer.save_pretrained(folder)
    if not hasattr(model, "get_base_model"):
        model.save_pretrained(folder, state_dict=weights, max_shard_size=_ONE_FILE)
        return folder
    # The vocabulary is never resized; PEFT's own check of that would look up the base on the network.
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, state_dict=weights)
    file = folder / "adapter_config.json"
    configuration = json.loads(file.read_text(encoding="utf-8"))
    # PEFT writes where it loaded the base from, which may be a path of this machine.
    configuration |= {"base_model_name_or_path": base.source, "revision": base.revision}
    file.write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template; the release writes the card
    return folder


def _arguments(params: TrainingParams, work: Path, steps: int, metric: TaskMetric | None) -> Any:
    import torch
    from trl import SFTConfig

    every = params.eval_steps or max(1, steps // params.evaluations)
    precision = backends.precision(params)
    arguments = SFTConfig(
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
        # Grouped by length, the short outputs ("None") would share batches with few tokens. The loss is the mean over
        # a batch's tokens, so their one decision would count several times, and the model would learn to answer "None".
        train_sampling_strategy="random",
        logging_strategy=params.logging_strategy,
        logging_steps=params.logging_steps,
        eval_strategy=params.eval_strategy,
        eval_steps=every,
        save_strategy=params.save_strategy,
        save_steps=params.save_steps or every,
        save_total_limit=None,  # see Rotation: the Trainer would also remove folders that are not its own
        load_best_model_at_end=params.load_best_model_at_end,
        metric_for_best_model=metric.key if metric else "eval_loss",
        greater_is_better=metric is not None and metric.metric.higher_is_better,
        restore_callback_states_from_checkpoint=params.resume,  # how often in a row there was no new best
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
    backends.keep_settings(arguments, params)
    if arguments.device.type == "cpu":
        # With several processes it is cpu:0, to which torch.load cannot restore an optimizer.
        arguments.__dict__["_setup_devices"] = torch.device("cpu")
    return arguments


def _finite(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the history without values that are not finite, which JSON cannot hold.

    They occur where a run diverges after its best checkpoint, and in float16 at the steps that the loss scaler skips.
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


def _last_states(model: Any, row: dict[str, list[int]]) -> Any:
    """Return the last hidden states of a row in float32, shape (1, tokens, features)."""
    import torch

    training = model.training
    model.eval()
    ids = torch.tensor([row["input_ids"]], device=next(model.parameters()).device)
    with torch.no_grad():
        states = causal_of(model).get_decoder()(input_ids=ids).last_hidden_state
    model.train(training)
    return states.float()


def _check_canary(model: Any, row: dict[str, list[int]], before: Any) -> float:
    """Return the largest change that training makes to the last hidden states of a row.

    Args:
        model: What was trained.
        row: The row.
        before: Its states before the training; an adapter that is new changes none.

    Raises:
        BackendError: There is no change: the adapter is not applied, or nothing was learned.
    """
    change = float((_last_states(model, row) - before.to(next(model.parameters()).device)).abs().max())
    if change == 0.0:
        raise BackendError(
            "training changes nothing in the base's hidden states.",
            where="training",
            fix="Train for longer than the warm-up, or raise training.learning_rate.",
        )
    return change
