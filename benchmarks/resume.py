"""Training killed at random points and resumed, against the same undisturbed: are the adapters equal bit by bit?

    .venv/bin/python benchmarks/resume.py [KILLS]

Each time a process trains a tiny base with random weights, is killed (SIGKILL) after a random share of the undisturbed
run's time, and another process resumes; every other one is killed a second time before that. Some kills come before the
first checkpoint, some while one is written. Linux.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

# as odin_slm.settings does; read when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.record import Record
from odin_slm.models.base_model import BaseModel

NANO = Path(__file__).resolve().parents[1] / "data/06_models/odin-nano"
PARAMS = TrainingParams(
    epochs=3,
    batch_size=4,
    logging_steps=4,
    evaluations=12,
    generation_samples=0,
    learning_rate=0.01,
    lora=LoraParams(r=4),
    resume=True,
)


def main(kills: int = 20) -> None:
    """Kill, resume, compare and print."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = tiny(folder / "base")
        begin = time.monotonic()
        finish(base, folder / "straight")
        seconds = time.monotonic() - begin
        expected = digest(folder / "straight")
        print(f"undisturbed: {seconds:.1f} s, adapter {expected[:12]}", flush=True)
        generator, equal = random.Random(42), 0
        for number in range(1, kills + 1):
            work = folder / "killed"
            shutil.rmtree(work, ignore_errors=True)
            shares = [generator.random() for _ in range(1 + number % 2)]
            for share in shares:
                kill_after(share * seconds, base, work)
            left = sorted(int(f.name.split("-")[1]) for f in (work / "checkpoints").glob("checkpoint-*"))
            finish(base, work)
            same = digest(work) == expected
            equal += same
            after = " and ".join(f"{share * seconds:.1f} s" for share in shares)
            print(
                f"{number:3}  killed after {after}, checkpoints {left}: {'equal' if same else 'DIFFERENT'}", flush=True
            )
        print(f"{equal} of {kills} adapters are bit-identical to the undisturbed one")
        raise SystemExit(equal != kills)


def tiny(folder: Path) -> BaseModel:
    """Write a base of two layers with random weights and the embedded base's tokenizer."""
    pid = os.fork()  # the parent must not compute: a forked process cannot use its threads
    if not pid:
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(NANO)
        sizes = {"vocab_size": 5120, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
        LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, **ends)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        os._exit(0)
    os.waitpid(pid, 0)
    return BaseModel("tiny", folder)


def records(start: int, count: int) -> list[Record]:
    """Return records of different lengths."""
    return [
        Record(
            instruction="Extract entities: Drug, Symptom. Relations: causes.",
            input=f"Patient {n} had nausea after aspirin. " * (1 + n % 4),
            output="### Entities:\n1. [Symptom] nausea\n2. [Drug] aspirin\n\n### Relations:\n"
            "1. aspirin --[causes]--> nausea",
            id=f"r-{n}",
            source="ade",
            document_id=f"r-{n}",
        )
        for n in range(start, start + count)
    ]


def start(base: BaseModel, work: Path) -> int:
    """Train in a forked process; return its id. The libraries are imported already, so that it starts at once."""
    pid = os.fork()
    if pid:
        return pid
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    try:
        from odin_slm.training.lora import train_lora

        train_lora(base, records(0, 32), records(100, 4), work, PARAMS, lambda *_: None)
    except BaseException:
        os._exit(1)
    os._exit(0)


def finish(base: BaseModel, work: Path) -> None:
    """Train to the end."""
    _, status = os.waitpid(start(base, work), 0)
    if status:
        raise SystemExit(f"training failed with status {status}")


def kill_after(seconds: float, base: BaseModel, work: Path) -> None:
    """Train, and kill the process after so many seconds."""
    pid = start(base, work)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def digest(work: Path) -> str:
    """Return the sha256 of the adapter's weights."""
    return hashlib.sha256((work / "adapter/adapter_model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    import transformers  # noqa: F401
    import trl  # noqa: F401
    from peft import get_peft_model  # noqa: F401
    from trl import SFTTrainer  # noqa: F401

    main(*(int(word) for word in sys.argv[1:2]))
