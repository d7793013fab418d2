"""Preflight check: whether a training can run here, from the base's configuration alone. No weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError, BaseModelError, DeviceMemoryError, ReleaseError
from odin_slm.hub.licensing import base_terms
from odin_slm.models import backends, memory
from odin_slm.models.base_model import BaseModel, pad_within
from odin_slm.models.memory import Estimate, Job, Linear, Shape
from odin_slm.models.quantised import check_quantised, method_of

SPARE = {"cuda": 0.92, "cpu": 0.5}
"""Share of the free memory that a training may use; allocators keep the rest in freed blocks."""

CGROUP = Path("/sys/fs/cgroup")
"""Where a container finds its own limits."""


@dataclass(frozen=True)
class Machine:
    """The machine that trains, and its memory.

    Attributes:
        device: ``cuda`` or ``cpu``.
        name: Name of the GPU, or the number of CPU cores.
        total: Bytes.
        free: Bytes that are not in use.
    """

    device: str
    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Preflight:
    """What is known of a training before any weights are downloaded.

    Attributes:
        architecture: The base's model type.
        licence: Licence of the base, as far as it is known.
        parameters: Number of weights of the base.
        trainable: Number of weights that are trained.
        backend: The backend that trains.
        machine: The machine that trains.
        job: The settings on which memory depends, with ``auto`` resolved.
        estimate: Bytes of each part of the memory.
    """

    architecture: str
    licence: str
    parameters: int
    trainable: int
    backend: str
    machine: Machine
    job: Job
    estimate: Estimate

    def report(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "total": self.estimate.total}


def check(base: BaseModel, params: TrainingParams, machine: Machine | None = None) -> Preflight:
    """Check a training against the base's configuration and the machine.

    Args:
        base: The base; of a Hub id only ``config.json`` is fetched.
        params: Hyper-parameters.
        machine: The machine; None means this one.

    Raises:
        BaseModelError: The configuration cannot be read, or transformers does not know its architecture.
        BackendError: A target module is missing, ``max_seq_length`` exceeds the base's context, the machine cannot
            quantise or read a quantised base, or a tracker is not installed.
        DeviceMemoryError: The training does not fit; the message names settings that would.
    """
    backend = backends.choose(params)
    here = machine is None
    machine = _share(machine or this_machine(), params)
    config = pad_within(read_config(base))
    shape, modules = shape_of(config, base)
    backends.check_target_modules(modules, params)
    method = method_of(config)
    if params.method == "full" and method:
        raise BackendError(
            "the base is quantised, and its weights cannot be trained.",
            where="training.method=full",
            fix="Name the base in 16 or 32 bit, or set it to lora.",
        )
    if params.load_in_4bit and method not in (None, "bitsandbytes"):
        raise BackendError(
            f"the base is quantised already, with {method}.", where="training.load_in_4bit", fix="Set it to false."
        )
    narrowest = min(shape.linear, key=lambda layer: layer.inputs * layer.outputs, default=Linear("", 64, 64, 1))
    check_quantised(base, config, for_training=True, layer=(narrowest.inputs, narrowest.outputs))
    job = job_of(params, config, backend, machine)
    _check_settings(params, shape, machine, narrowest, here=here)
    budget = round(machine.free * SPARE[machine.device])
    if params.batch_size == "auto":
        job = memory.largest_batch(shape, job, budget)
    taken = memory.estimate(shape, job)
    if taken.total > budget:
        four_bit = machine.device == "cuda" or backends.four_bit_error() is None
        ways = memory.alternatives(shape, job, budget, four_bit=four_bit)
        fitting = " or ".join(str(way) for way in ways)
        raise DeviceMemoryError(
            f"the training needs about {memory.written(taken.total)}, but only {memory.written(budget)} of "
            f"{machine.name} can be used: {_parts(taken)}.",
            where="training",
            fix=f"These settings would fit: {fitting}." if ways else "No settings would fit; choose a smaller base.",
        )
    return Preflight(
        config.model_type,
        licence_of(base),
        shape.parameters,
        shape.parameters if job.full else taken.adapter // 4,
        backend,
        machine,
        job,
        taken,
    )


def _check_settings(params: TrainingParams, shape: Shape, machine: Machine, narrowest: Linear, *, here: bool) -> None:
    from transformers.training_args import OptimizerNames

    if shape.context and params.max_seq_length > shape.context:
        raise BackendError(
            f"the base reads at most {shape.context} tokens.",
            where=f"training.max_seq_length={params.max_seq_length}",
            fix=f"Set it to {shape.context} or less.",
        )
    if params.precision == "fp16" and machine.device == "cpu":
        raise BackendError(
            "a CPU trains in float32 or bfloat16.",
            where="training.precision=fp16",
            fix="Set it to auto, fp32 or bf16.",
        )
    known = sorted(one.value for one in OptimizerNames)
    if (named := backends.optimizer(params)) not in known:
        near = get_close_matches(named, known, n=5, cutoff=0.3)
        raise BackendError(
            "transformers has no optimizer of this name.",
            where=f"training.optimizer={named}",
            fix=f"Set it to auto, or to one of its names, as {', '.join(near or known[:5])}.",
        )
    if params.attention == "flash_attention_2" and (machine.device != "cuda" or find_spec("flash_attn") is None):
        raise BackendError(
            "FlashAttention needs a CUDA device and the package flash-attn.",
            where="training.attention=flash_attention_2",
            fix="Set it to auto or sdpa.",
        )
    tried = params.load_in_4bit and machine.device == "cpu"
    if tried and (error := backends.four_bit_error(narrowest.inputs, narrowest.outputs)):
        raise error
    if here:  # the packages are those of this machine
        _check_optimizer(named)
    for tracker in params.report_to:
        if find_spec(tracker) is None:
            raise BackendError(
                f"the package {tracker} is not installed.",
                where="training.report_to",
                fix=f"Run pip install {tracker}, or remove it: MLflow tracks every run.",
            )


def _check_optimizer(name: str) -> None:
    """Check that an optimizer of transformers has all that it needs here."""
    if any(part in name for part in ("galore", "apollo")):
        raise BackendError(
            "this optimizer projects the gradients of full weights, and needs to be told which.",
            where=f"training.optimizer={name}",
            fix="Set it to auto.",
        )
    if any(part in name for part in ("8bit", "bnb", "paged")) and find_spec("bitsandbytes") is None:
        raise BackendError(
            "this optimizer is one of bitsandbytes, which is not installed.",
            where=f"training.optimizer={name}",
            fix="Run make env EXTRAS=nf4, or set it to auto.",
        )


def read_config(base: BaseModel) -> Any:
    """Return the base's configuration.

    Raises:
        BaseModelError: It cannot be read, or transformers has no causal language model of that architecture.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(base.location, revision=base.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BaseModelError(
            f"the base's configuration cannot be read ({reason}).",
            where=base.source,
            fix="Check the id, the network and your access to the model, or name a local folder.",
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BaseModelError(
            f"{config.model_type} is not a causal language model that transformers supports without custom code.",
            where=base.source,
            fix="Choose a base of another architecture, for example Llama, Qwen, Gemma, Mistral or Phi.",
        )
    return config


def shape_of(config: Any, base: BaseModel) -> tuple[Shape, list[str]]:
    """Return the shape of a model and the names of its modules, from a model on the meta device.

    Raises:
        BaseModelError: The configuration contradicts itself.
    """
    import copy

    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    plain = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(plain, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise BaseModelError(
            f"the base's configuration does not describe a valid model ({error}).",
            where=base.source,
            fix="Restore its config.json.",
        ) from error
    text = plain.get_text_config()
    head = model.get_output_embeddings()
    found: dict[tuple[str, int, int], int] = {}
    for name, module in model.named_modules():
        # PEFT adapts both. Conv1D, used by GPT-2 and its relatives, is a linear layer with a transposed weight.
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head:
            outputs, inputs = module.weight.shape[:: -1 if isinstance(module, Conv1D) else 1]
            key = (name.rsplit(".", 1)[-1], inputs, outputs)
            found[key] = found.get(key, 0) + 1
    heads = getattr(text, "num_attention_heads", None) or 1  # models without attention have no heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    shape = Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=tuple(Linear(*key, count) for key, count in found.items()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=heads,
        query=heads * size,
        key=(getattr(text, "num_key_value_heads", None) or heads) * size,
        feed_forward=_feed_forward(text),
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None),
    )
    return shape, [name for name, _ in model.named_modules()]


def _processes(params: TrainingParams) -> int:
    """Return how many processes train on this machine; 1 where only accelerate's own file says it."""
    several = params.launcher == "accelerate" and params.accelerate_config is None
    return params.num_processes or 1 if several else 1


def _share(machine: Machine, params: TrainingParams) -> Machine:
    """Return what one of several processes has of a machine: of its main memory a part, of the GPUs one."""
    processes = _processes(params)
    if machine.device != "cpu" or processes == 1:
        return machine
    name = f"{machine.name}, shared by {processes} processes"
    return Machine(machine.device, name, machine.total // processes, machine.free // processes)


def job_of(params: TrainingParams, config: Any, backend: str, machine: Machine) -> Job:
    """Return the settings on which memory depends, resolved as training resolves them."""
    import torch

    full = params.method == "full"
    targets = "all-linear" if full else params.lora.target_modules
    batch = 16 if params.batch_size == "auto" else params.batch_size
    quantised = params.load_in_4bit or method_of(config) is not None
    job = Job(
        batch_size=batch,
        accumulation=params.gradient_accumulation_steps,
        length=params.max_seq_length,
        rank=0 if full else params.lora.r,
        targets=() if isinstance(targets, str) else targets,
        weight_bytes=4 if backends.weights_dtype(params) == "float32" else 2,
        compute_bytes=4 if backends.precision(params) == "fp32" else 2,
        four_bit=quantised,
        checkpointing=params.gradient_checkpointing,
        optimizer=backends.optimizer(params),
        device=machine.device,
        fused_attention=params.attention != "eager",
        full=full,
        decoded_copy=params.metric_for_best_model == "task" and machine.device == "cpu" and not quantised,
    )
    if machine.device == "cpu" and _processes(params) == 1 and backends.has_cpu_step(config, params):
        group = memory.group_tokens(_feed_forward(config), job.compute_bytes)
        return replace(job, workers=min(torch.get_num_threads(), batch), group=group)
    return job


def this_machine() -> Machine:
    """Return the CUDA device that training would use, or else the main memory within the container's limit."""
    if backends.cuda():
        import torch

        free, total = torch.cuda.mem_get_info()
        return Machine("cuda", torch.cuda.get_device_name(), total, free)
    import psutil

    found = psutil.virtual_memory()
    total, free = found.total, found.available
    limit, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit < total:
        total, free = limit, min(free, limit - max(0, (used or 0) - _cached()))
    return Machine("cpu", f"{psutil.cpu_count()} CPU cores", total, free)


def licence_of(base: BaseModel) -> str:
    """Return what is known of the licence of the base, without network access for a known or local base."""
    try:
        terms = base_terms(base.source)
    except ReleaseError as error:
        return f"unknown: {error.what}"
    if terms:
        return f"{terms.license}; a release must be named {terms.name_prefix}… and have that licence"
    if base.path and (stated := stated_license(base)):
        return f"{stated}, according to its card"
    return "unknown; read the card of the base before you publish"


def stated_license(base: BaseModel) -> str | None:
    """Return the Hub licence id on a base's card, from its folder or from the Hub; None if there is none.

    If the Hub cannot be asked, the result is None; see :func:`odin_slm.models.sources.model_search.of_base`.
    """
    if base.path is None:
        from odin_slm.models.sources import model_search

        model = model_search.of_base(base)
        return str(model["license"]) if model and model["license"] else None
    card = base.path / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import ModelCard

    stated = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    return str(stated[0] if isinstance(stated, list) else stated) if stated else None


def show(report: Mapping[str, Any]) -> None:
    """Print the table of a report, as :meth:`Preflight.report` gives it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    parts = {"machine": Machine, "job": Job, "estimate": Estimate}
    made = {name: kind(**report[name]) for name, kind in parts.items()}
    found = Preflight(**{**{name: report[name] for name in Preflight.__dataclass_fields__}, **made})
    machine, job = found.machine, found.job
    table = Table(title="Preflight check", title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    kind = "NF4" if job.four_bit else {2: "16 bit", 4: "32 bit"}[round(job.weight_bytes)]
    notes = {
        "weights": f"{found.parameters:,} in {kind}",
        "adapter": "none; all weights are trained" if job.full else f"{found.trainable:,} at rank {job.rank}",
        "gradients": "",
        "optimizer": job.optimizer,
        "activations": f"{job.batch_size} x {job.length} tokens"
        + (", recomputed" if job.checkpointing else f", {job.tokens} at a time" if job.workers else ""),
        "workspace": "",
        "runtime": "",
    }
    for name, size in asdict(found.estimate).items():
        table.add_row(name, memory.written(size), notes[name])
    table.add_section()
    table.add_row("peak", memory.written(found.estimate.total), f"of {memory.written(machine.free)} free")
    table.add_row("machine", memory.written(machine.total), machine.name)
    table.add_row("base", "", f"{found.architecture}; licence: {found.licence}")
    table.add_row("backend", "", found.backend)
    Console(stderr=True).print(table)


def _feed_forward(config: Any) -> int:
    """Return the features inside a feed-forward layer; architectures name them differently, or not at all."""
    for name in ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"):
        if features := getattr(config, name, None):
            return int(features)
    return int((getattr(config, "expansion_ratio", None) or 4) * config.hidden_size)


def _parts(taken: Estimate) -> str:
    return ", ".join(f"{name} {memory.written(size)}" for name, size in asdict(taken).items())


def _cached() -> int:
    """Return the bytes of cached files in the container's memory, which the kernel frees on demand.

    The container counts them as used, so after reading libraries and weights it seems to be full. Kubelet subtracts the
    same value from its working set (docs.kernel.org/admin-guide/cgroup-v2.html, memory.stat).
    """
    try:
        values = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return int(values["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no limit, or "max"
        return None
