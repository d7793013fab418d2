"""Training as this project does it against a plain TRL ``SFTTrainer``: same base, records, epochs and examples a step.

    .venv/bin/kedro run --pipelines data
    .venv/bin/python benchmarks/training.py [--records 320] [--epochs 1] [--precision auto] [--method lora]
    .venv/bin/python benchmarks/training.py --base DIR --data data/05_model_input/smollm2-135m --source ade
    .venv/bin/python benchmarks/training.py --ways "this project" --group 512 1024 2048 [--batch 64]

Three ways, one after the other, in this process:

- this project: our token ids and mask, and our step (``odin_slm/training/cpu_step.py``);
- TRL, the predecessor's settings: batches of 2, 4 for a step, gradient checkpointing, TRL's own tokenising and padding;
- TRL, our batch: as many examples a step as ours, no checkpointing.

With ``--group``, ours once for each number of tokens that a thread computes together, in place of the chosen one.

Prints the tokens of the examples (prompt and completion, no padding) for each second of training, the ratio, the
seconds that the cores computed (they tell the ways apart where others use the machine too), and the loss on validation
records afterwards, computed in one way for all. The last line compares our rate with the machine's own in matrix
products: a LoRA step needs four floating-point operations for each token and each weight of the blocks, and a step of
all weights (``--method full``) six.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

# as odin_slm.settings does; read when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from datasets import Dataset, disable_progress_bars
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.record import full_text
from odin_slm.models import backends, preflight
from odin_slm.models.base_model import BaseModel, load_tokenizer
from odin_slm.training import lm_head
from odin_slm.training.collation import Collator, dataset_of, tokenise
from odin_slm.training.cpu_step import cpu_step_of, with_cpu_step

ROOT = Path(__file__).resolve().parents[1]
WAYS: dict[str, dict[str, Any]] = {
    "TRL, the predecessor's settings": {"own": False, "batch": 2, "accumulation": 4, "checkpointing": True},
    "TRL, our batch, no checkpointing": {"own": False, "batch": 16, "accumulation": 1, "checkpointing": False},
    "this project": {"own": True, "batch": 16, "accumulation": 1, "checkpointing": False},
}


def main() -> None:
    """Train in every way and print the table."""
    parser = argparse.ArgumentParser(description="Training beside a plain TRL SFTTrainer.")
    parser.add_argument("--base", type=Path, default=ROOT / "data/06_models/odin-nano")
    parser.add_argument("--data", type=Path, default=ROOT / "data/05_model_input/demo")
    parser.add_argument("--source", help="records of this corpus alone")
    parser.add_argument("--records", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--group", type=int, nargs="*", default=[])
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    if not (options.data / "train.json").is_file():
        raise SystemExit(f"There is no data in {options.data} yet: kedro run --pipelines data")
    logging.disable(logging.WARNING)
    disable_progress_bars()
    lm_head.install()
    base = BaseModel(options.base.name, options.base)
    params = TrainingParams(precision=options.precision)
    precision = backends.precision(params)
    tokenizer = load_tokenizer(base)
    train, held_out = (
        [each for each in json.loads((options.data / name).read_text()) if options.source in (None, each["source"])]
        for name in ("train.json", "val.json")
    )
    train = random.Random(0).sample(train, min(options.records, len(train)))
    rows, validation = tokenise(tokenizer, train, 1024), tokenise(tokenizer, held_out[:50], 1024)
    tokens = sum(len(row["input_ids"]) for row in rows) * options.epochs
    print(
        f"{len(rows)} records, {tokens:,} tokens in {options.epochs} epoch(s), {options.method}, {precision}, ", end=""
    )
    print(f"{torch.get_num_threads()} threads")
    print(f"{'':34}{'seconds':>9}{'tokens/s':>10}{'speed':>8}{'core-seconds':>14}{'loss':>9}")
    ways = {name: WAYS[name] for name in options.ways}
    for way in ways.values():
        way["batch"] = options.batch if way["accumulation"] == 1 else way["batch"]
    if options.group and (ours := ways.pop("this project", None)):
        ways |= {f"this project, groups of {tokens}": ours | {"group": tokens} for tokens in options.group}
    for way in ways.values():  # what the libraries load and prepare at first
        measure(base, train[:16], rows[:16], validation[:1], tokenizer, 1, precision, options.method, **way)
    first = rate = 0.0
    for name, way in ways.items():
        seconds, cores, loss = measure(
            base, train, rows, validation, tokenizer, options.epochs, precision, options.method, **way
        )
        first, rate = first or seconds, tokens / seconds
        print(f"{name:34}{seconds:9.1f}{rate:10.0f}{first / seconds:6.2f} x{cores:14.1f}{loss:9.4f}", flush=True)
    shape, _ = preflight.shape_of(preflight.read_config(base), base)
    weights = sum(layer.count * layer.inputs * layer.outputs for layer in shape.linear)
    own, machine = rate * (4 if options.method == "lora" else 6) * weights / 1e9, matrix_rate(precision)
    print(f"the last way: {own:.0f} GFLOP/s in the blocks, {own / machine:.0%} of the {machine:.0f} of one product")


def matrix_rate(precision: str) -> float:
    """Return the GFLOP/s of a product of 2048 x 576 and 576 x 1536 on all cores."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2048, 576).to(dtype), torch.randn(1536, 576).to(dtype)
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        torch.nn.functional.linear(left, right)
        times.append(time.perf_counter() - begin)
    return 2 * 2048 * 576 * 1536 / sorted(times)[len(times) // 2] / 1e9


def measure(
    base: BaseModel,
    train: list[dict[str, str]],
    rows: list[dict[str, list[int]]],
    held_out: list[dict[str, list[int]]],
    tokenizer: Any,
    epochs: int,
    precision: str,
    method: str,
    *,
    own: bool,
    batch: int,
    accumulation: int,
    checkpointing: bool,
    group: int | None = None,
) -> tuple[float, float, float]:
    """Return the seconds of training, those of all cores, and the validation loss afterwards."""
    set_seed(42)
    params = TrainingParams.model_validate(
        {"batch_size": batch, "gradient_accumulation_steps": accumulation, "precision": precision, "method": method}
    )
    model = backends.with_adapter("transformers", base, params)
    step = cpu_step_of(model, params) if own else None
    if step and group:
        step.tokens = group
    pairs = [dict(zip(("prompt", "completion"), full_text(record), strict=True)) for record in train]
    prepared: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = with_cpu_step(SFTTrainer, step)(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                gradient_checkpointing=checkpointing,
                learning_rate=5e-4 if method == "lora" else 1e-4,
                lr_scheduler_type="linear",
                optim=backends.optimizer(params),
                weight_decay=0.01,
                max_length=None if own else 1024,
                use_cpu=True,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                bf16=precision == "bf16",
                seed=42,
                data_seed=42,
                **(prepared if own else {}),
            ),
            train_dataset=dataset_of(rows) if own else Dataset.from_list(pairs),
            processing_class=tokenizer,
            data_collator=Collator(tokenizer.pad_token_id) if own else None,
        )
        trainer.log = lambda *_, **__: None
        begin = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cores = time.perf_counter() - begin[0], time.process_time() - begin[1]
    if step:
        step.close()
    return seconds, cores, loss_of(trainer.model, held_out)


def loss_of(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """Return the mean loss over the labelled tokens of rows, one row at a time."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
            labels = torch.tensor(row["labels"][1:])
            total += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
            count += int((labels != -100).sum())
    return total / count


if __name__ == "__main__":
    main()
