"""Two steps of v13's training on a CPU, on a base of Llama 3.1 8B's own shape with random weights in NF4.

    .venv/bin/kedro run --pipelines data
    make unsloth
    .venv-unsloth/bin/python benchmarks/shape_8b.py [--steps 2] [--backend transformers] [--layers 32] [--base FOLDER]

Writes the base block by block, as ``-bnb-4bit`` repositories hold it: the linear layers of the blocks in NF4, quantised
twice, the rest in bfloat16; 5.7 GB of disk, in a temporary folder or in FOLDER, which is kept and taken again. The
codes of a layer are random bytes, its scales those of one quantised layer of that shape. The tokenizer is the embedded
base's, whose 5,120 tokens are the first of the 128,256.

Then trains in a process of its own (``training/lora.py``) by the settings of ``conf/v13``, but for batches of one
record, no warm-up, and a limit of tokens that is the longest record. The records are the shortest of the sample's that
hold a relation.

Prints the seconds of a step after the first, losses and norms of the gradients, how many of the adapter's matrices have
left zero, and the peak of the resident memory beside the estimate of the preflight check. It ends with an error where a
loss is not finite or a matrix is still zero. It needs more than 9 GB of free memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

# as odin_slm.settings does; read when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy
import yaml

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "data/05_model_input/demo/train.json"
TOKENIZER = ROOT / "data/06_models/odin-nano"
ROPE = {
    **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 8192,
}
SHAPE: dict[str, Any] = {
    **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    **{"rms_norm_eps": 1e-5, "rope_parameters": ROPE, "tie_word_embeddings": False},
}
"""``config.json`` of Llama 3.1 8B."""
CHANGED = {
    **{"batch_size": 1, "gradient_accumulation_steps": 1, "warmup_steps": 0, "logging_steps": 1, "evaluations": 1},
    **{"validation_samples": 1, "generation_samples": 0},
}


def main() -> None:
    """Write the base, train on it in a process of its own, and print the figures."""
    parser = argparse.ArgumentParser(description="Two steps of training on an 8B Llama's shape in NF4.")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--backend", choices=["transformers", "unsloth"], default="transformers")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"], help="fewer, to try it")
    parser.add_argument("--base", type=Path, help="keep the base there")
    options = parser.parse_args()
    if not RECORDS.is_file():
        raise SystemExit("There is no data yet: kedro run --pipelines data")
    with tempfile.TemporaryDirectory() as name:
        folder = options.base or Path(name) / "base"
        if not (folder / "config.json").is_file():
            begin = time.monotonic()
            written = write_base(folder, SHAPE | {"num_hidden_layers": options.layers})
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"base: {written / 1e9:.1f} GB, {time.monotonic() - begin:.0f} s, peak {peak:.1f} GiB", flush=True)
        job = json.dumps({"backend": options.backend, "folder": str(folder), "steps": options.steps})
        done = subprocess.run([sys.executable, __file__, "--row", job], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("The training failed; its message is above.")
    show(json.loads(done.stdout.splitlines()[-1]))


def write_base(folder: Path, shape: dict[str, Any]) -> int:
    """Save a base with random weights, a block at a time, and return the bytes of its weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(**shape, **ids, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        parameters = list(LlamaForCausalLM(config).named_parameters())
    random = numpy.random.default_rng(0)
    places: dict[str, str] = {}
    for part, group in itertools.groupby(parameters, key=lambda item: "-".join(item[0].split(".")[:3])):
        tensors: dict[str, Any] = {}
        for name, empty in group:
            if empty.dim() == 1:
                tensors[name] = torch.ones(empty.shape, dtype=torch.bfloat16)
            elif name.endswith("_proj.weight"):
                codes = random.integers(0, 256, (empty.numel() // 2, 1), dtype=numpy.uint8)
                tensors |= {f"{name}.{key}": value.clone() for key, value in scales_of(tuple(empty.shape)).items()}
                tensors[name] = torch.from_numpy(codes)
            else:
                weight = torch.from_numpy(random.standard_normal(tuple(empty.shape), dtype=numpy.float32))
                tensors[name] = weight.mul_(config.initializer_range).to(torch.bfloat16)
        save_file(tensors, folder / f"{part}.safetensors", {"format": "pt"})
        places |= dict.fromkeys(tensors, f"{part}.safetensors")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    kinds = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
    config.quantization_config = BitsAndBytesConfig(load_in_4bit=True, **kinds).to_dict()
    config.save_pretrained(folder)  # last: what has it is whole
    return size


@cache
def scales_of(shape: tuple[int, int]) -> dict[str, Any]:
    """Return what bitsandbytes stores beside the codes of a layer, from random weights that it has quantised."""
    import torch
    from bitsandbytes.functional import quantize_4bit

    weight = torch.from_numpy(numpy.random.default_rng(0).standard_normal(shape, dtype=numpy.float32)).mul_(0.02)
    _, state = quantize_4bit(weight.to(torch.bfloat16), compress_statistics=True, quant_type="nf4")
    stored: dict[str, Any] = state.as_dict(packed=True)
    return stored


def measure(backend: str, folder: str, steps: int) -> dict[str, Any]:
    """Train in this process and return the figures: seconds, bytes, losses, gradients and what changed."""
    from odin_slm.models import backends

    backends.prepare(backend)  # type: ignore[arg-type]
    import torch  # noqa: F401, part of what is in memory before the base
    from trl import SFTTrainer  # noqa: F401

    from odin_slm.config.parameters import TrainingParams
    from odin_slm.models import preflight
    from odin_slm.models.base_model import BaseModel, load_tokenizer
    from odin_slm.training.collation import tokenise
    from odin_slm.training.lora import train_lora

    base = BaseModel("Llama-3.1-8B-shape", Path(folder))
    v13 = yaml.safe_load((ROOT / "conf/v13/parameters_training.yml").read_text(encoding="utf-8"))["training"]
    settings = v13 | CHANGED | {"backend": backend, "max_steps": steps, "epochs": float(steps)}
    records = [each for each in json.loads(RECORDS.read_text(encoding="utf-8")) if "--[" in each["output"]]
    lengths = [len(row["input_ids"]) for row in tokenise(load_tokenizer(base), records, settings["max_seq_length"])]
    chosen = sorted(range(len(records)), key=lengths.__getitem__)[: steps + 1]
    params = TrainingParams.model_validate(settings | {"max_seq_length": lengths[chosen[-1]]})
    machine = preflight.this_machine()
    found = preflight.check(base, params, replace(machine, free=machine.total))  # what it takes, whatever else runs
    before = resident("VmRSS")
    times: list[float] = []
    peaks: list[int] = []

    def on_log(_: int, figures: dict[str, float]) -> None:
        if "loss" in figures:
            times.append(time.monotonic())
            peaks.append(resident("VmHWM"))
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far

    *train, validation = (records[number] for number in chosen)
    with tempfile.TemporaryDirectory() as work:
        adapter, state = train_lora(base, train, [validation], Path(work) / "training", params, on_log)
        moved = _moved(adapter)
    logged = [entry for entry in state["history"] if "loss" in entry]
    return {
        **{key: state[key] for key in ("backend", "precision", "trainable_parameters", "seconds", "best_eval_loss")},
        **{key: [entry.get(key) for entry in logged] for key in ("loss", "grad_norm")},
        "parameters": found.parameters,
        "steps": [end - begin for begin, end in itertools.pairwise(times)],
        "tokens": [lengths[number] for number in chosen[:-1]],
        "moved": moved,
        "before": before,
        "peaks": [peaks[0], max([*peaks[1:], resident("VmHWM")])],
        "estimate": found.report()["estimate"],
    }


def resident(name: str) -> int:
    """Return bytes of this process's resident memory: ``VmRSS``, or ``VmHWM``, their peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _moved(adapter: Path) -> list[int]:
    """Return how many of the matrices that begin as zero are another now, and their number."""
    from safetensors.torch import load_file

    weights = load_file(adapter / "adapter_model.safetensors")
    ends = [bool(weight.any()) for name, weight in weights.items() if "lora_B" in name]
    return [sum(ends), len(ends)]


def show(found: dict[str, Any]) -> None:
    """Print the figures.

    Raises:
        SystemExit: A loss or a gradient is not finite, a gradient is zero, or a matrix of the adapter did not change.
    """
    gib = 2**30
    mean, step = (sum(found[key]) / max(1, len(found[key])) for key in ("tokens", "steps"))
    print(f"{found['parameters']:,} weights in NF4, {found['trainable_parameters']:,} trained by {found['backend']}")
    print(
        f"a step {step:.0f} s, {mean:.0f} tokens ({found['precision']}), {mean / step if step else 0:.2f} tokens/s; "
        f"{found['seconds'] / 60:.1f} minutes with loading, validation and saving"
    )
    print(f"loss {found['loss']}, gradient norm {found['grad_norm']}, validation loss {found['best_eval_loss']:.3f}")
    print(f"{found['moved'][0]} of {found['moved'][1]} matrices of the adapter left zero")
    total, before = sum(found["estimate"].values()), found["before"]
    print(f"estimate {total / gib:.2f} GiB; libraries {before / gib:.2f} GiB before the base is loaded")
    for when, peak in zip(("with loading and the first step", "afterwards"), found["peaks"], strict=True):
        print(f"peak {when} {peak / gib:.2f} GiB: estimate / what it rose by {total / (peak - before):.2f}")
    print(", ".join(f"{name} {size / gib:.2f}" for name, size in found["estimate"].items()))
    figures = [*found["loss"], *found["grad_norm"]]
    if not all(isinstance(value, float) and math.isfinite(value) for value in figures) or not all(found["grad_norm"]):
        raise SystemExit("A loss or a gradient is not finite, or zero.")
    if found["moved"][0] < found["moved"][1]:
        raise SystemExit("A part of the adapter did not change.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row"]:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        print(json.dumps(measure(**json.loads(sys.argv[2]))))
    else:
        main()
