"""Both training backends against the predecessor's loop on a GPU: an 8B Llama's shape with random weights in NF4.

    .venv/bin/kedro run --pipelines data
    .venv/bin/python benchmarks/gpu.py [STEPS]

Needs one NVIDIA GPU, the gpu extra (without unsloth only the transformers rows run), and 20 GB of disk for the weights,
which are made from the published configuration's numbers: the real ones change neither speed nor memory. Settings are
those of conf/v15. Every row is a process of its own. Prints for the steps after the first three: examples and tokens
(prompt and completion, no padding) a second, the peak of the allocator, and the share of the device's dense bf16 peak
that is used, at 4 operations a weight and token: forward, and backward through frozen weights.

- predecessor: TRL's SFTTrainer on prompts and completions, batches of 2, 4 for a step, checkpointing, padding;
- v15: this project with the same batches;
- packed: this project with batches of 8 in packed rows, one batch for a step;
- large batch: the same without checkpointing.

Without a CUDA device nothing is measured. tests/project/test_benchmarks.py runs the rows' own code on a tiny model on
a CPU.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data/05_model_input/demo/train.json"
TOKENIZER = ROOT / "data/06_models/odin-nano"
LLAMA_8B = {
    **{"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    **{"rope_theta": 500000.0, "tie_word_embeddings": False},
}
DENSE_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Operations a second, from the vendor's data sheets, without sparsity."""
V15: dict[str, Any] = {
    **{"max_seq_length": 1024, "load_in_4bit": True, "batch_size": 2, "gradient_accumulation_steps": 4},
    **{"learning_rate": 0.0002, "scheduler": "linear", "optimizer": "adamw_8bit", "gradient_checkpointing": True},
    **{"logging_steps": 1, "evaluations": 1, "generation_samples": 0, "validation_samples": 8},
}
PACKED = {"batch_size": 8, "gradient_accumulation_steps": 1, "packing": True}
WAYS: dict[str, dict[str, Any]] = {
    "predecessor": {},
    "v15": {},
    "packed": PACKED,
    "large batch": {**PACKED, "gradient_checkpointing": False},
}
WARM_UP = 3


def main(steps: int = 20) -> None:
    """Run every row and print the table."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here: this benchmark needs an NVIDIA GPU. Nothing was measured.")
    if not DATA.is_file():
        raise SystemExit("There is no data yet: kedro run --pipelines data")
    backends = ["transformers", *(["unsloth"] if importlib.util.find_spec("unsloth") else [])]
    if len(backends) == 1:
        print("unsloth is not installed (pip install -e '.[gpu]'): its rows are left out.")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        subprocess.run([sys.executable, __file__, "--weights", name], check=True)
        print(torch.cuda.get_device_name())
        print(f"{'':34}{'examples/s':>12}{'tokens/s':>10}{'peak':>11}{'MFU':>7}{'speed':>9}")
        rows = [(backends[-1], "predecessor"), *((b, way) for b in backends for way in WAYS if way != "predecessor")]
        first = None
        for backend, way in rows:
            job = json.dumps({"backend": backend, "way": way, "base": str(base), "steps": steps})
            done = subprocess.run([sys.executable, __file__, "--row", job], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{backend + ', ' + way:34}failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            first = first or found["examples"]
            peak = next((ops for name, ops in DENSE_BF16.items() if name in torch.cuda.get_device_name()), None)
            used = f"{4 * found['weights'] * found['tokens'] / peak:7.1%}" if peak else f"{'?':>7}"
            print(
                f"{backend + ', ' + way:34}{found['examples']:12.2f}{found['tokens']:10.0f}"
                f"{found['memory'] / 2**30:7.1f} GiB{used}{found['examples'] / first:7.2f} x",
                flush=True,
            )


def write_weights(folder: Path) -> None:
    """Save the random model and the embedded base's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        LlamaForCausalLM(LlamaConfig(**LLAMA_8B, **ends, dtype="bfloat16")).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(backend: str, way: str, base: str, steps: int) -> dict[str, float]:
    """Train in this process; return rates and peak."""
    from odin_slm.models import backends

    backends.prepare(backend)  # type: ignore[arg-type]
    import torch

    from odin_slm.config.parameters import TrainingParams
    from odin_slm.models.base_model import BaseModel, load_tokenizer
    from odin_slm.training.collation import tokenise

    model = BaseModel("Llama-3.1-8B-shape", Path(base))
    records = json.loads(DATA.read_text())
    params = TrainingParams.model_validate({**V15, **WAYS[way], "backend": backend, "max_steps": steps})
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train = _train_as_before if way == "predecessor" else _train_as_now
        weights = train(model, records, params, Path(folder), lambda: times.append(time.perf_counter()))
    step = statistics.median(b - a for a, b in zip(times[WARM_UP:-1], times[WARM_UP + 1 :], strict=True))
    examples = int(params.batch_size) * params.gradient_accumulation_steps
    rows = tokenise(load_tokenizer(model), records, params.max_seq_length)
    tokens = sum(len(row["input_ids"]) for row in rows) / len(rows)
    return {
        "examples": examples / step,
        "tokens": examples * tokens / step,
        "memory": torch.cuda.max_memory_reserved(),
        "weights": weights,
    }


def _train_as_now(model: Any, records: Any, params: Any, work: Path, tick: Any) -> float:
    from odin_slm.training.lora import train_here

    def on_log(_: int, figures: dict[str, float]) -> None:
        if "loss" in figures:
            tick()

    train_here(model, records[8:], records[:8], work, params, on_log, params.backend)
    return _weights()


def _train_as_before(model: Any, records: Any, params: Any, work: Path, tick: Any) -> float:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from odin_slm.core.record import full_text
    from odin_slm.models import backends
    from odin_slm.models.base_model import load_tokenizer
    from odin_slm.training import lm_head

    lm_head.install()

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            tick()

    pairs = [dict(zip(("prompt", "completion"), full_text(record), strict=True)) for record in records]
    SFTTrainer(
        model=backends.with_adapter(params.backend, model, params),
        args=SFTConfig(
            output_dir=str(work),
            max_steps=params.max_steps,
            per_device_train_batch_size=params.batch_size,
            gradient_accumulation_steps=params.gradient_accumulation_steps,
            gradient_checkpointing=params.gradient_checkpointing,
            learning_rate=params.learning_rate,
            lr_scheduler_type=params.scheduler,
            optim=params.optimizer,
            bf16=backends.precision(params) == "bf16",
            use_cpu=not backends.cuda(),
            max_length=params.max_seq_length,
            packing=False,
            padding_free=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=load_tokenizer(model),
        callbacks=[Clock()],
    ).train()
    return _weights()


def _weights() -> float:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    with torch.device("meta"):  # quantised weights are packed: their own number says too little
        return float(sum(p.numel() for p in AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA_8B)).parameters()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--weights"]:
        write_weights(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--row"]:
        print(json.dumps(measure(**json.loads(sys.argv[2]))))
    else:
        main(*(int(word) for word in sys.argv[1:2]))
