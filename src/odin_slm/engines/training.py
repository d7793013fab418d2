"""LoRA training behind one interface: tokens and mask are ours, the loop is TRL's."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from odin_slm.engines.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.engines.tokens import completion_ids, prompt_ids
from odin_slm.engines.workers import Workers
from odin_slm.errors import BackendError, RecordTooLongError
from odin_slm.parameters import TrainingParams
from odin_slm.record import Record, full_text

logger = logging.getLogger(__name__)

IGNORED = -100
"""Label of a token that carries no loss."""


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
        BackendError: The machine cannot do what the parameters ask for, or ``params.resume`` meets checkpoints of
            other data, parameters or another base.
    """
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    from odin_slm.engines import lm_head

    lm_head.install()
    set_seed(params.seed)
    tokenizer = load_tokenizer(base)
    train_rows = tokenise(tokenizer, train, params.max_seq_length)
    chosen = list(validation)
    if params.validation_samples and len(chosen) > params.validation_samples:
        chosen = random.Random(params.seed).sample(chosen, params.validation_samples)
    validation_rows = tokenise(tokenizer, chosen, params.max_seq_length)
    check_mask(tokenizer, train, train_rows)

    steps = total_steps(len(train_rows), params)
    every = max(1, steps // params.evaluations)
    model = _with_adapter(base, params)
    workers = _threads(model, params)
    checkpoint = _prepare(work, _job(base, params, train_rows, validation_rows), resume=params.resume)
    trainer = _trainer_class(SFTTrainer, workers)(
        model=model,
        args=SFTConfig(
            output_dir=str(work / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=params.batch_size,
            per_device_eval_batch_size=params.batch_size * 2,
            gradient_accumulation_steps=params.gradient_accumulation_steps,
            learning_rate=params.learning_rate,
            lr_scheduler_type=params.scheduler,
            warmup_steps=math.ceil(steps * params.warmup_ratio),
            weight_decay=params.weight_decay,
            max_grad_norm=params.max_grad_norm,
            optim=params.optimizer,
            bf16=_precision(params) == "bf16",
            fp16=_precision(params) == "fp16",
            gradient_checkpointing=params.gradient_checkpointing,
            # Grouped by length, the short outputs ("None") share batches of few tokens, and the mean over a batch's
            # tokens then weighs their one decision several times over: the model learns to answer nothing.
            train_sampling_strategy="random",
            logging_steps=params.logging_steps,
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            prediction_loss_only=True,
            dataloader_pin_memory=False,
            use_cpu=not _cuda(),
            report_to=[],
            disable_tqdm=True,
            neftune_noise_alpha=params.neftune_noise_alpha,
            seed=params.seed,
            data_seed=params.seed,
        ),
        train_dataset=_dataset(train_rows),
        eval_dataset=_dataset(validation_rows),
        processing_class=tokenizer,
        data_collator=_Collator(tokenizer.pad_token_id),
        callbacks=[_progress_callback(steps, on_log)],
    )
    _silence(trainer)
    tokens = sum(len(row["input_ids"]) for row in train_rows) * steps * params.batch_size
    tokens = round(tokens * params.gradient_accumulation_steps / len(train_rows))
    begin = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - begin
    if workers:
        workers.close()
    adapter = save_adapter(trainer.model, tokenizer, base, work / "adapter")
    history = [dict(entry) for entry in trainer.state.log_history if "train_runtime" not in entry]
    scored = [entry for entry in history if "eval_loss" in entry]
    best = min(scored, key=lambda entry: entry["eval_loss"])
    return adapter, {
        "history": history,
        "steps": steps,
        "resumed_from_step": int(checkpoint.name.split("-")[1]) if checkpoint else None,
        "best_step": best["step"],
        "best_eval_loss": best["eval_loss"],
        "train_records": len(train_rows),
        "validation_records": len(validation_rows),
        "seconds": round(seconds, 1),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "all_parameters": sum(p.numel() for p in trainer.model.parameters()),
        "base_model": base.source,
        "hyperparameters": params.model_dump(mode="json"),
    }


def tokenise(tokenizer: Any, records: Sequence[Record], max_seq_length: int) -> list[dict[str, list[int]]]:
    """Return ``input_ids`` and ``labels`` of each record; the prompt's labels are ignored, EOS is labelled.

    Raises:
        RecordTooLongError: Names the records that are longer than ``max_seq_length``; nothing is ever cut.
    """
    rows, long = [], []
    for record in records:
        prompt, completion = full_text(record)
        before, after = prompt_ids(tokenizer, prompt), completion_ids(tokenizer, completion)
        if len(before) + len(after) > max_seq_length:
            long.append(record["id"])
        rows.append({"input_ids": before + after, "labels": [IGNORED] * len(before) + after})
    if long:
        raise RecordTooLongError(
            f"{len(long)} of {len(records)} records exceed {max_seq_length} tokens: {', '.join(long[:5])}.",
            where="training.max_seq_length",
            fix="Raise it, or lower ingestion.max_tokens and make the data again.",
        )
    return rows


def check_mask(tokenizer: Any, records: Sequence[Record], rows: Sequence[dict[str, list[int]]]) -> None:
    """Prove on real rows that the loss covers exactly the completion and the end-of-sequence token.

    Raises:
        BackendError: Decoding the labelled tokens of a record does not give its output and EOS.
    """
    for record, row in list(zip(records, rows, strict=True))[:256]:
        labelled = [label for label in row["labels"] if label != IGNORED]
        text = tokenizer.decode(labelled, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text != record["output"] + tokenizer.eos_token:
            raise BackendError(
                f"the labelled tokens decode to {text[:80]!r}, not to the output and {tokenizer.eos_token}.",
                where=f"record {record['id']}",
                fix="This tokenizer does not give back what it reads; choose another base.",
            )


def total_steps(records: int, params: TrainingParams) -> int:
    """Return the number of optimizer steps."""
    batches = math.ceil(records / params.batch_size)
    steps = math.ceil(math.ceil(batches / params.gradient_accumulation_steps) * params.epochs)
    return min(steps, params.max_steps or steps)


def save_adapter(model: Any, tokenizer: Any, base: BaseModel, folder: Path) -> Path:
    """Save adapter and tokenizer as PEFT and the tokenizer do, naming the base as the user did.

    Raises:
        BackendError: A weight is not finite.
    """
    import torch

    broken = [name for name, p in model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
    if broken:
        raise BackendError(
            f"{len(broken)} adapter weights are not finite after training, {broken[0]} among them.",
            where="training",
            fix="Lower training.learning_rate.",
        )
    shutil.rmtree(folder, ignore_errors=True)
    # the vocabulary is never resized, and PEFT's own check would look for the base on the network
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    file = folder / "adapter_config.json"
    configuration = json.loads(file.read_text(encoding="utf-8"))
    # as the user named it: PEFT notes where it was loaded from, which is a path of this machine
    configuration |= {"base_model_name_or_path": base.source, "revision": base.revision}
    file.write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template; the release writes the real card
    return folder


_CHECKPOINT_FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
"""What a checkpoint needs to be continued; the Trainer writes the last one last."""


def _job(base: BaseModel, params: TrainingParams, *rows: list[dict[str, list[int]]]) -> str:
    """Return a digest of what decides the course of training."""
    described = [base.source, base.revision, params.model_dump(mode="json", exclude={"resume"}), rows]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _prepare(work: Path, job: str, *, resume: bool) -> Path | None:
    """Empty the folder for a fresh run, or find the checkpoint to continue; incomplete ones are set aside.

    Raises:
        BackendError: The checkpoints belong to another job.
    """
    note = work / "job.json"
    checkpoints = sorted((work / "checkpoints").glob("checkpoint-*"), key=lambda f: -int(f.name.split("-")[1]))
    if resume and checkpoints:
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != {"job": job}:
            raise BackendError(
                "the checkpoints are of other data, other parameters or another base.",
                where="training.resume",
                fix="Restore what they were made with, or set training.resume=false to start afresh.",
            )
        for folder in checkpoints:
            if all((folder / name).is_file() for name in _CHECKPOINT_FILES):
                logger.info("Continuing from %s.", folder.name)
                return folder
            logger.warning("%s is incomplete and set aside.", folder.name)
            folder.rename(folder.with_name(f"incomplete-{folder.name}"))
    if resume:
        logger.info("There is no checkpoint to continue; training starts afresh.")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    note.write_text(json.dumps({"job": job}), encoding="utf-8")
    return None


def _with_adapter(base: BaseModel, params: TrainingParams) -> Any:
    """Return the frozen base with a fresh adapter on its target modules."""
    from peft import LoraConfig, get_peft_model

    options: dict[str, Any] = {}
    if params.load_in_4bit:
        if not _cuda():
            raise BackendError(
                "4-bit loading needs a CUDA device.",
                where="training.load_in_4bit",
                fix="Set it to false, or run on a GPU.",
            )
        import torch
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    model = load_model(base, **options)
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    missing = [name for name in params.lora.target_modules if name not in names]
    if missing:
        raise BackendError(
            f"the base has no module {', '.join(missing)}.",
            where="training.lora.target_modules",
            fix=f"Choose among its linear layers: {', '.join(sorted(n for n in names if n.endswith('proj')))}.",
        )
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=params.lora.r,
            lora_alpha=params.lora.alpha,
            lora_dropout=params.lora.dropout,
            bias=params.lora.bias,
            target_modules=list(params.lora.target_modules),
            use_rslora=params.lora.rslora,
            use_dora=params.lora.dora,
        ),
    )


def _threads(model: Any, params: TrainingParams) -> Workers | None:
    """Return copies of the model that share its weights, one per core; None where one model serves better.

    The copies are made before TRL changes the model's forward. What draws random numbers in the forward pass stays
    with one model: threads would draw them in any order.
    """
    import copy

    import torch

    cores = min(torch.get_num_threads(), params.batch_size)
    random_forward = params.lora.dropout > 0 or params.neftune_noise_alpha is not None
    plain = model.config.model_type in ("llama", "qwen2", "qwen3", "mistral")  # logits are the head's, unscaled
    if _cuda() or cores < 2 or random_forward or params.gradient_checkpointing or not plain:
        return None
    twin = copy.deepcopy(model)
    for own, shared in zip(twin.parameters(), model.parameters(), strict=True):
        own.data = shared.data
    return Workers(twin.train(), cores)


def _trainer_class(trainer: type[Any], workers: Workers | None) -> type[Any]:
    """Return a trainer whose steps share the rows of a batch among threads, or the trainer as it is."""
    if workers is None:
        return trainer
    shared = workers

    class Threaded(trainer):
        """Computes the gradient of TRL's loss, the mean over the labelled tokens, without TRL's padding."""

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            labels = inputs["labels"]
            total = (labels[:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch

            def mean_of(replica: Any, *tensors: Any) -> Any:
                return _summed_loss(replica, *tensors) / total

            loss = shared.accumulate(mean_of, _trimmed(inputs, len(shared.replicas)))
            for own, twin in zip(model.parameters(), shared.replicas[0].parameters(), strict=True):
                if twin.grad is not None:
                    own.grad = twin.grad if own.grad is None else own.grad.add_(twin.grad)
                    twin.grad = None
            return loss

        def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Any, None, None]:
            import torch

            groups = [group for share in _trimmed(inputs, len(shared.replicas)) for group in share]
            losses = shared.evaluate(lambda replica, group: float(_summed_loss(replica, *group)), groups)
            return torch.tensor(sum(losses) / int((inputs["labels"][:, 1:] != IGNORED).sum())), None, None

    return Threaded


def _summed_loss(model: Any, ids: Any, labels: Any, mask: Any) -> Any:
    """Return the loss added up over the labelled tokens; logits of the others are never computed."""
    import torch

    causal = model.get_base_model()
    hidden = causal.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    chosen = wanted != IGNORED
    logits = causal.get_output_embeddings()(hidden[chosen]).float()
    return torch.nn.functional.cross_entropy(logits, wanted[chosen], reduction="sum")


def _trimmed(inputs: dict[str, Any], workers: int) -> list[list[tuple[Any, ...]]]:
    """Return each worker's groups of a padded batch, as ids, labels and mask no longer than the group's longest row."""
    tensors = inputs["input_ids"], inputs["labels"], inputs["attention_mask"]
    lengths = inputs["attention_mask"].sum(1).tolist()
    return [
        [tuple(tensor[rows, : lengths[rows[0]]] for tensor in tensors) for rows in share]
        for share in share_rows(lengths, workers)
    ]


def share_rows(lengths: Sequence[int], workers: int, tokens: int = 512) -> list[list[list[int]]]:
    """Share the rows of a batch among workers, so that little is padded and all end at about the same time.

    A random batch of sentences and abstracts is mostly padding when it is one rectangle. Sorted by length and cut into
    groups of at most ``tokens`` padded tokens, it is hardly any; the groups go to the worker with the least to do, the
    largest first (Graham 1969, "Bounds on multiprocessing timing anomalies").

    Args:
        lengths: Tokens of each row.
        workers: Number of workers.
        tokens: Padded tokens of a group of more than one row.

    Returns:
        For each worker its groups of row numbers; the first row of a group is its longest.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    # no group larger than an even share, so that no worker idles in a batch that would fit into one group
    limit = min(tokens, max(1, sum(lengths) // workers))
    groups: list[list[int]] = []
    for row in order:
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= limit:
            groups[-1].append(row)
        else:
            groups.append([row])
    shares: list[list[list[int]]] = [[] for _ in range(workers)]
    load = [0] * workers
    for group in sorted(groups, key=lambda rows: -lengths[rows[0]] * len(rows)):
        least = load.index(min(load))
        shares[least].append(group)
        load[least] += lengths[group[0]] * len(group)
    return shares


class _Collator:
    """Pads a batch on the right to its longest row."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        import torch

        length = max(len(row["input_ids"]) for row in rows)

        def padded(key: str, filler: int) -> torch.Tensor:
            return torch.tensor([row[key] + [filler] * (length - len(row[key])) for row in rows])

        ids = padded("input_ids", self._pad)
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])
        return {"input_ids": ids, "labels": padded("labels", IGNORED), "attention_mask": mask}


def _dataset(rows: list[dict[str, list[int]]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{**row, "length": len(row["input_ids"])} for row in rows])


def _progress_callback(steps: int, on_log: Callable[[int, dict[str, float]], None]) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """Reports figures with the rate and the time left."""

        def __init__(self) -> None:
            self.begin = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begin = time.monotonic()

        def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
            figures = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
            if not figures or "train_runtime" in figures:
                return
            elapsed = time.monotonic() - self.begin
            left = elapsed / max(1, state.global_step) * (steps - state.global_step)
            shown = {k: figures[k] for k in ("loss", "eval_loss", "mean_token_accuracy") if k in figures}
            logger.info(
                "step %d of %d  %s  %.0f s gone, %.0f s left",
                state.global_step,
                steps,
                "  ".join(f"{name} {value:.3f}" for name, value in shown.items()),
                elapsed,
                left,
            )
            on_log(state.global_step, figures)

    return Progress()


def _silence(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _precision(params: TrainingParams) -> str:
    if params.precision != "auto":
        return params.precision
    import torch

    return "bf16" if _cuda() and torch.cuda.is_bf16_supported() else "fp32"


def _cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())
