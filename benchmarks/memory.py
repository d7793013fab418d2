"""The memory estimate against the real peak of training on this machine.

    .venv/bin/python benchmarks/memory.py [WORD]

Every row (with WORD only those whose name holds it) is a process of its own that trains the embedded base and reports
how far its resident memory rose above what it was before the base was loaded (Linux: VmHWM of /proc/self/status, put
back before). One example of a batch is as long as allowed and the others are a token shorter: rows of one length would
need no mask, and real batches do.
A short run goes before, for what the libraries load and keep themselves. MALLOC_MMAP_THRESHOLD_ has the C library give
freed blocks back at once; without it, it keeps about as many again, which the preflight leaves room for. On a machine
with CUDA the peak of the allocator is reported instead. Measured on two CPU cores, in MiB:

    case                                      estimate  measured  ratio
    16 x 512, threads                              364       336   1.08
    32 x 1024, threads                             392       371   1.06
    16 x 512, all weights, threads                 440       414   1.06
    16 x 512, bfloat16, threads                    430       346   1.24
    32 x 1024, bfloat16, threads                   430       436   0.99
    16 x 512, all weights, bfloat16, threads       500       395   1.27
    8 x 1024                                      1560      1522   1.03
    4 x 1024                                       803       784   1.02
    4 x 512, rank 8, q and v                       332       325   1.02
    4 x 512, checkpointing                         138       144   0.96
    4 x 512, packed                                400       393   1.02

The rows with 24 and 27 % too much are batches that are shared out evenly in smaller groups than there is room for.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# as odin_slm.settings does; read when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

BASE = Path(__file__).resolve().parents[1] / "data/06_models/odin-nano"
CASES = {
    "16 x 512, threads": {"batch_size": 16},
    "32 x 1024, threads": {"batch_size": 32, "max_seq_length": 1024},
    "16 x 512, all weights, threads": {"batch_size": 16, "method": "full"},
    "16 x 512, bfloat16, threads": {"batch_size": 16, "precision": "bf16"},
    "32 x 1024, bfloat16, threads": {"batch_size": 32, "max_seq_length": 1024, "precision": "bf16"},
    "16 x 512, all weights, bfloat16, threads": {"batch_size": 16, "method": "full", "precision": "bf16"},
    "8 x 1024": {"batch_size": 8, "max_seq_length": 1024},
    "4 x 1024": {"batch_size": 4, "max_seq_length": 1024},
    "4 x 512, rank 8, q and v": {"batch_size": 4, "lora": {"r": 8, "target_modules": ["q_proj", "v_proj"]}},
    "4 x 512, checkpointing": {"batch_size": 4, "gradient_checkpointing": True},
    "4 x 512, packed": {"batch_size": 4, "packing": True},
}
LABELLED = 0.5


def main(word: str = "") -> None:
    """Measure every case whose name holds a word and print it beside its estimate."""
    print(f"{'case':42}{'estimate':>12}{'measured':>12}{'ratio':>8}")
    worst = 1.0
    for name, values in CASES.items():
        if word not in name:
            continue
        options = json.dumps({"threads": "threads" in name, "values": values})
        exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, __file__, "--row", options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=exact)
        if done.returncode:
            raise SystemExit(done.stderr)
        estimate, measured = json.loads(done.stdout.splitlines()[-1])
        ratio = estimate / measured
        worst = max(worst, ratio, 1 / ratio)
        print(f"{name:42}{estimate / 2**20:8.0f} MiB{measured / 2**20:8.0f} MiB{ratio:8.2f}", flush=True)
    print(f"at most {100 * (worst - 1):.0f} % apart")


def measure(threads: bool, values: dict[str, object]) -> tuple[int, int]:
    """Train three steps; return the estimated and the measured bytes."""
    from dataclasses import replace

    from odin_slm.config.parameters import TrainingParams
    from odin_slm.models import memory, preflight
    from odin_slm.models.base_model import BaseModel

    base = BaseModel("odin-nano", BASE)
    params = TrainingParams.model_validate({"max_seq_length": 512, "precision": "fp32", **values})
    config = preflight.read_config(base)
    shape, _ = preflight.shape_of(config, base)
    job = preflight.job_of(params, config, "transformers", preflight.this_machine())
    job = replace(job, labelled=LABELLED, workers=job.workers if threads else 0)
    train(base, params.model_copy(update={"batch_size": 2, "max_seq_length": 64}), threads, 1)
    before = _reset()
    train(base, params, threads, 2)
    return memory.estimate(shape, job).total, _peak() - before


def train(base: Any, params: Any, threads: bool, steps: int) -> None:
    """Train on rows of which one in a batch is longer than the others."""
    import torch
    from trl import SFTConfig, SFTTrainer

    from odin_slm.models import backends
    from odin_slm.models.base_model import load_tokenizer
    from odin_slm.training import lm_head
    from odin_slm.training.collation import IGNORED, Collator, dataset_of
    from odin_slm.training.cpu_step import cpu_step_of, with_cpu_step
    from odin_slm.training.packing import with_packing

    lm_head.install()
    tokenizer = load_tokenizer(base)
    ids = torch.randint(10, 5000, (params.max_seq_length,)).tolist()
    unlabelled = round(len(ids) * (1 - LABELLED))
    longest = {"input_ids": ids, "labels": [IGNORED] * unlabelled + ids[unlabelled:]}
    batch = [longest] + [{name: values[1:] for name, values in longest.items()}] * (int(params.batch_size) - 1)
    model = backends.with_adapter("transformers", base, params)
    workers = cpu_step_of(model, params) if threads else None
    with tempfile.TemporaryDirectory() as folder:
        kind = with_cpu_step(SFTTrainer, workers)
        if params.packing is True:
            kind = with_packing(kind, params.max_seq_length, "transformers")
        trainer = kind(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=int(params.batch_size),
                gradient_checkpointing=params.gradient_checkpointing,
                optim=backends.optimizer(params),
                bf16=backends.precision(params) == "bf16",
                max_length=None,
                train_sampling_strategy="sequential",
                dataset_kwargs={"skip_prepare_dataset": True},
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                use_cpu=not backends.cuda(),
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=dataset_of(batch * steps),
            processing_class=tokenizer,
            data_collator=Collator(tokenizer.pad_token_id),
        )
        trainer.train()
    if workers:
        workers.close()


def _reset() -> int:
    """Forget the peak so far; return what is in use."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return 0
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(measure(**json.loads(sys.argv[2]))))
    else:
        main(*sys.argv[1:2])
