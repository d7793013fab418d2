"""Training as this project does it against a plain TRL ``SFTTrainer``: same base, records, epochs and examples a step.

    .venv/bin/kedro run --pipelines data
    .venv/bin/python benchmarks/training.py [RECORDS] [EPOCHS]

Three ways, one after the other, in this process:

- this project: our token ids and mask, rows of like length in groups without padding, a group for each core;
- TRL, the predecessor's settings: batches of 2, 4 for a step, gradient checkpointing, TRL's own tokenising and padding;
- TRL, our batch: batches of 8, no checkpointing.

Prints the tokens of the examples (prompt and completion, no padding) for each second of training, the ratio, the
seconds that the cores computed (they tell the ways apart where others use the machine too), and the loss on validation
records afterwards, computed in one way for all.
"""

from __future__ import annotations

import json
import logging
import os
import sys
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
from odin_slm.models.backends import with_adapter
from odin_slm.models.base_model import BaseModel, load_tokenizer
from odin_slm.training import lm_head
from odin_slm.training.collation import Collator, dataset_of, tokenise
from odin_slm.training.data_parallel_steps import data_parallel_of, with_data_parallel

ROOT = Path(__file__).resolve().parents[1]
BASE = BaseModel("odin-nano", ROOT / "data/06_models/odin-nano")
DATA = ROOT / "data/05_model_input/demo"
WAYS = {
    "TRL, the predecessor's settings": {"own": False, "batch": 2, "accumulation": 4, "checkpointing": True},
    "TRL, our batch, no checkpointing": {"own": False, "batch": 8, "accumulation": 1, "checkpointing": False},
    "this project": {"own": True, "batch": 8, "accumulation": 1, "checkpointing": False},
}


def main(records: int = 320, epochs: int = 1) -> None:
    """Train in every way and print the table."""
    if not (DATA / "train.json").is_file():
        raise SystemExit("There is no data yet: kedro run --pipelines data")
    logging.disable(logging.WARNING)
    disable_progress_bars()
    lm_head.install()
    tokenizer = load_tokenizer(BASE)
    train = json.loads((DATA / "train.json").read_text())[:records]
    rows = tokenise(tokenizer, train, 1024)
    held_out = tokenise(tokenizer, json.loads((DATA / "val.json").read_text())[:100], 1024)
    tokens = sum(len(row["input_ids"]) for row in rows) * epochs
    print(f"{len(rows)} records, {tokens:,} tokens in {epochs} epoch(s), {torch.get_num_threads()} threads")
    print(f"{'':34}{'seconds':>9}{'tokens/s':>10}{'speed':>8}{'core-seconds':>14}{'loss':>9}")
    for way in WAYS.values():  # what the libraries load and prepare at first
        measure(train[:8], rows[:8], held_out[:1], tokenizer, 1, **way)
    predecessors = 0.0
    for name, way in WAYS.items():
        seconds, cores, loss = measure(train, rows, held_out, tokenizer, epochs, **way)
        predecessors = predecessors or seconds
        speed = f"{predecessors / seconds:.2f} x"
        print(f"{name:34}{seconds:9.1f}{tokens / seconds:10.0f}{speed:>8}{cores:14.1f}{loss:9.4f}", flush=True)


def measure(
    train: list[dict[str, str]],
    rows: list[dict[str, list[int]]],
    held_out: list[dict[str, list[int]]],
    tokenizer: Any,
    epochs: int,
    *,
    own: bool,
    batch: int,
    accumulation: int,
    checkpointing: bool,
) -> tuple[float, float, float]:
    """Return the seconds of training, those of all cores, and the validation loss afterwards."""
    set_seed(42)
    params = TrainingParams(batch_size=batch, gradient_accumulation_steps=accumulation)
    model = with_adapter("transformers", BASE, params)
    workers = data_parallel_of(model, params) if own else None
    pairs = [dict(zip(("prompt", "completion"), full_text(record), strict=True)) for record in train]
    prepared: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = with_data_parallel(SFTTrainer, workers)(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                gradient_checkpointing=checkpointing,
                learning_rate=2e-3,
                lr_scheduler_type="linear",
                optim="adamw_torch",
                weight_decay=0.01,
                max_length=None if own else 1024,
                use_cpu=True,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                bf16=False,
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
    if workers:
        workers.close()
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
    main(*(int(word) for word in sys.argv[1:3]))
