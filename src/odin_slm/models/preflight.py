"""What a training would take and whether it can run, from the base's configuration alone: no weight is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError, BaseModelError, DeviceMemoryError, HubError, ReleaseError
from odin_slm.hub.licensing import base_terms
from odin_slm.models import backends, memory
from odin_slm.models.base_model import BaseModel
from odin_slm.models.memory import Estimate, Job, Linear, Shape

logger = logging.getLogger(__name__)

SPARE = {"cuda": 0.92, "cpu": 0.5}
"""Share of the free memory that a job may plan with; the rest is what allocators keep of freed blocks."""


CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees its own limits."""


@dataclass(frozen=True)
class Machine:
    """The memory that a job has.

    Attributes:
        device: ``cuda`` or ``cpu``.
        name: The accelerator's name, or how many cores there are.
        total: Bytes.
        free: Bytes that nobody uses now.
    """

    device: str
    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Preflight:
    """What is known before anything is downloaded.

    Attributes:
        architecture: The base's model type.
        licence: What is known of the base's licence.
        parameters: Weights of the base.
        trainable: Weights of the adapter.
        backend: What trains.
        machine: Where.
        job: The settings that decide on memory, with what ``auto`` came to.
        estimate: Bytes of each part.
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
        machine: Where it runs; None looks.

    Raises:
        BaseModelError: The configuration cannot be read, or is of no architecture that transformers knows.
        BackendError: A target module is not there, a row is longer than the base reads, the machine cannot quantise, a
            tracker is not installed.
        DeviceMemoryError: The job does not fit; says which settings would.
    """
    backend = backends.choose(params)
    machine = machine or this_machine()
    config = read_config(base)
    shape, modules = shape_of(config, base)
    backends.check_target_modules(modules, params)
    if shape.context and params.max_seq_length > shape.context:
        raise BackendError(
            f"the base reads {shape.context} tokens at most.",
            where=f"training.max_seq_length={params.max_seq_length}",
            fix=f"Set it to {shape.context} or less.",
        )
    if params.load_in_4bit and machine.device != "cuda":
        raise BackendError(
            "4-bit loading needs a CUDA device.",
            where="training.load_in_4bit",
            fix="Set it to false, or run on a GPU.",
        )
    for tracker in params.report_to:
        if find_spec(tracker) is None:
            raise BackendError(
                f"the package {tracker} is not installed.",
                where="training.report_to",
                fix=f"pip install {tracker}, or leave it out: MLflow tracks every run.",
            )
    job = job_of(params, config, backend, machine)
    budget = round(machine.free * SPARE[machine.device])
    if params.batch_size == "auto":
        job = memory.largest_batch(shape, job, budget)
    taken = memory.estimate(shape, job)
    if taken.total > budget:
        ways = memory.alternatives(shape, job, budget)
        fitting = " or ".join(str(way) for way in ways)
        raise DeviceMemoryError(
            f"the training would take about {memory.written(taken.total)}, and {memory.written(budget)} of "
            f"{machine.name} can be planned with: {_parts(taken)}.",
            where="training",
            fix=f"Would fit: {fitting}." if ways else "No setting of it would fit: choose a smaller base.",
        )
    return Preflight(
        config.model_type,
        licence_of(base),
        shape.parameters,
        taken.adapter // 4,
        backend,
        machine,
        job,
        taken,
    )


def read_config(base: BaseModel) -> Any:
    """Return the base's configuration.

    Raises:
        BaseModelError: It cannot be read, or transformers has no causal language model for it.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(base.location, revision=base.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ArithmeticError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BaseModelError(
            f"the base's configuration cannot be read ({reason}).",
            where=base.source,
            fix="Check the id, the network and your access to the model, or name a local folder.",
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BaseModelError(
            f"{config.model_type} is no causal language model that transformers knows by itself.",
            where=base.source,
            fix="Choose a base of another architecture, for example Llama, Qwen, Gemma, Mistral or Phi.",
        )
    return config


def shape_of(config: Any, base: BaseModel) -> tuple[Shape, list[str]]:
    """Return the shape of a model and the names of its modules, from a model without storage.

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
            f"no model can be made of the base's configuration ({error}).",
            where=base.source,
            fix="Restore its config.json.",
        ) from error
    text = plain.get_text_config()
    head = model.get_output_embeddings()
    found: dict[tuple[str, int, int], int] = {}
    for name, module in model.named_modules():
        # PEFT adapts both; Conv1D, of GPT-2 and its kin, is a linear layer whose weight lies the other way round
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head:
            outputs, inputs = module.weight.shape[:: -1 if isinstance(module, Conv1D) else 1]
            key = (name.rsplit(".", 1)[-1], inputs, outputs)
            found[key] = found.get(key, 0) + 1
    heads = getattr(text, "num_attention_heads", None) or 1  # a model without attention has no heads
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


def job_of(params: TrainingParams, config: Any, backend: str, machine: Machine) -> Job:
    """Return the settings that decide on memory, as training would resolve them."""
    import torch

    targets = params.lora.target_modules
    batch = 16 if params.batch_size == "auto" else params.batch_size
    quantised = getattr(config, "quantization_config", None) is not None
    job = Job(
        batch_size=batch,
        accumulation=params.gradient_accumulation_steps,
        length=params.max_seq_length,
        rank=params.lora.r,
        targets=() if isinstance(targets, str) else targets,
        weight_bytes=4 if backends.weights_dtype(params) == "float32" else 2,
        compute_bytes=4 if backends.precision(params) == "fp32" else 2,
        four_bit=params.load_in_4bit or quantised,
        checkpointing=params.gradient_checkpointing,
        optimizer=backends.optimizer(params),
        device=machine.device,
        fused_attention=params.attention != "eager",
    )
    if machine.device == "cpu" and backends.may_thread(config.model_type, params):
        return replace(job, workers=min(torch.get_num_threads(), batch))
    return job


def this_machine() -> Machine:
    """Return the CUDA device that training would take, or the computer's memory within its container's limit."""
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
    """Return what is known of the base's licence without asking the network."""
    try:
        terms = base_terms(base.source)
    except ReleaseError as error:
        return f"unknown: {error.what}"
    if terms:
        return f"{terms.license}; a release must be named {terms.name_prefix}… and carry that licence"
    if base.path and (stated := stated_license(base)):
        return f"{stated}, says its card"
    return "not stated here; read the base's card before you publish"


def stated_license(base: BaseModel) -> str | None:
    """Return the Hub licence id that a base's card states: the one in its folder, or the Hub's; None for none.

    A Hub that cannot be asked states nothing, and a warning says so.
    """
    if base.path is None:
        from odin_slm.hub.client import Hub
        from odin_slm.hub.credentials import find_token
        from odin_slm.hub.metadata_cache import MetadataCache
        from odin_slm.models import model_search as browsing

        try:
            cache = MetadataCache(browsing.default_cache())
            model = browsing.info(Hub(token=find_token()), cache, base.source, base.revision or "main")
        except HubError as error:
            logger.warning("The licence of %s is not known: %s", base.source, error)
            return None
        return str(model["license"]) if model["license"] else None
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
    table = Table(title="Training, before it starts", title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    kind = "NF4" if job.four_bit else {2: "16 bit", 4: "32 bit"}[round(job.weight_bytes)]
    notes = {
        "weights": f"{found.parameters:,} in {kind}",
        "adapter": f"{found.trainable:,} at rank {job.rank}",
        "gradients": "",
        "optimizer": job.optimizer,
        "activations": f"{job.batch_size} x {job.length} tokens"
        + (", computed twice" if job.checkpointing else f", {job.tokens} at a time" if job.workers else ""),
        "workspace": "",
        "runtime": "",
    }
    for name, size in asdict(found.estimate).items():
        table.add_row(name, memory.written(size), notes[name])
    table.add_section()
    table.add_row("at the peak", memory.written(found.estimate.total), f"of {memory.written(machine.free)} free")
    table.add_row("machine", memory.written(machine.total), machine.name)
    table.add_row("base", "", f"{found.architecture}; licence: {found.licence}")
    table.add_row("backend", "", found.backend)
    Console(stderr=True).print(table)


def _feed_forward(config: Any) -> int:
    """Return the features inside a feed-forward layer; not every architecture says them, or under the same name."""
    for name in ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"):
        if said := getattr(config, name, None):
            return int(said)
    return int((getattr(config, "expansion_ratio", None) or 4) * config.hidden_size)


def _parts(taken: Estimate) -> str:
    return ", ".join(f"{name} {memory.written(size)}" for name, size in asdict(taken).items())


def _cached() -> int:
    """Return the bytes of files that the container's memory holds and that the kernel drops when memory is asked for.

    They count as used: the libraries and weights that were read fill a container until nothing would fit any more. What
    kubelet takes off for its working set is taken off here (docs.kernel.org/admin-guide/cgroup-v2.html, memory.stat).
    """
    try:
        stated = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return int(stated["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such limit, or "max"
        return None
