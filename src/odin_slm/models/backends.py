"""Backends that load a base and add an adapter: transformers with PEFT, and unsloth.

Both run on CUDA and on CPUs, and return a PEFT model, so training loop, saved adapter, state and metrics do not depend
on the backend.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import sys
from typing import Any, Literal

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError
from odin_slm.models.base_model import BaseModel, keep_unpacked, load_model

logger = logging.getLogger(__name__)

Name = Literal["transformers", "unsloth"]


def choose(params: TrainingParams) -> Name:
    """Return the backend to use on this machine; ``auto`` is unsloth only where CUDA and the package are there.

    Raises:
        BackendError: The parameters ask for ``unsloth``, but it is not installed.
    """
    installed = importlib.util.find_spec("unsloth") is not None
    if params.backend == "auto":
        return "unsloth" if installed and cuda() else "transformers"
    if params.backend == "unsloth" and not installed:
        raise BackendError("unsloth is not installed.", where="training.backend", fix=_unsloth_fix())
    return params.backend


def needs_process(name: Name) -> bool:
    """Tell whether a backend needs a separate process.

    unsloth patches transformers, PEFT and TRL on import, and has to be imported before them.
    """
    return name == "unsloth" and "unsloth" not in sys.modules and "transformers" in sys.modules


def prepare(name: Name) -> None:
    """Import unsloth, which has to come before transformers and decides on import between CUDA and its CPU backend.

    Raises:
        BackendError: unsloth cannot be imported.
    """
    if name == "unsloth":
        if not cuda():
            logger.warning("There is no CUDA device: unsloth trains on the CPU.")
        os.environ.pop("UNSLOTH_ALLOW_CPU", None)  # it would take the CPU for a CUDA device
        try:
            importlib.import_module("unsloth")
        except (ImportError, NotImplementedError, RuntimeError) as error:
            raise BackendError(
                f"unsloth cannot be loaded ({str(error).splitlines()[0] if str(error) else type(error).__name__}).",
                where="training.backend",
                fix=_unsloth_fix(),
            ) from error


def with_adapter(name: Name, base: BaseModel, params: TrainingParams) -> Any:
    """Return what is trained: the frozen base with a new adapter on its target modules, or the base itself.

    An adapter makes a PEFT model of it; ``method: full`` returns the causal language model as it is.

    Raises:
        BackendError: The base lacks a target module, or the machine cannot load in 4 bits.
        BaseModelError: The base cannot be loaded.
    """
    return (_with_unsloth if name == "unsloth" else _with_transformers)(base, params)


def cuda() -> bool:
    """Tell whether there is a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def precision(params: TrainingParams) -> str:
    """Return the precision of the forward pass: fp32, bf16 or fp16."""
    if params.precision != "auto":
        return params.precision
    import torch

    return "bf16" if (torch.cuda.is_bf16_supported() if cuda() else multiplies_faster_in_bf16()) else "fp32"


def reading_precision(asked: str) -> Literal["fp32", "bf16"]:
    """Return the precision of the layers' products when a CPU reads texts; fp32 beside a GPU, which has its own.

    Args:
        asked: fp32, bf16, or auto: bf16 where the processor multiplies faster in it.
    """
    if asked == "fp32" or cuda():
        return "fp32"
    return "bf16" if asked == "bf16" or multiplies_faster_in_bf16() else "fp32"


@functools.cache
def multiplies_faster_in_bf16() -> bool:
    """Tell whether this CPU multiplies bfloat16 matrices at least 1.5 times as fast as float32 ones, by timing both.

    A processor with AMX does several times as fast; others convert, or have slow instructions, whatever they announce.
    One thread's own seconds are counted: on a busy machine the clock on the wall would choose by chance.
    """
    import time

    import torch

    kinds = (torch.float32, torch.bfloat16)
    pairs = {dtype: (torch.ones(256, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)) for dtype in kinds}
    least = dict.fromkeys(kinds, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(8):
        for dtype, (left, right) in pairs.items():
            begin = time.thread_time()
            torch.nn.functional.linear(left, right)
            least[dtype] = min(least[dtype], time.thread_time() - begin)
    torch.set_num_threads(threads)
    return least[torch.float32] > 1.5 * least[torch.bfloat16]


def weights_dtype(params: TrainingParams) -> str:
    """Return the torch data type of the base's weights, unless they are quantised."""
    if params.dtype != "auto":
        return params.dtype
    if params.method == "full":  # steps of training are too small for the digits of 16 bits
        return "float32"
    import torch

    return "bfloat16" if cuda() and torch.cuda.is_bf16_supported() else "float32"


def _compute_dtype(params: TrainingParams) -> Any:
    """Return the torch data type in which a 4-bit layer computes."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision(params)]


def keep_settings(arguments: Any, params: TrainingParams) -> None:
    """Restore the training arguments that unsloth's CPU backend replaces on their creation.

    It takes AdamW in place of an 8-bit optimizer, for which bitsandbytes has had CPU kernels since 0.50, and float32
    where the processor only emulates bfloat16.
    """
    from transformers.training_args import OptimizerNames

    arguments.optim = OptimizerNames(optimizer(params))
    arguments.bf16 = precision(params) == "bf16"
    if arguments.bf16:
        arguments.mixed_precision = "bf16"


def keep_adapter_precision(model: Any, params: TrainingParams) -> None:
    """Put the adapter of a 4-bit base back into float32, which ``SFTTrainer`` has cast to bfloat16.

    PEFT loads an adapter from a checkpoint in float32, so that a resumed run would go on otherwise than it began.
    """
    if getattr(model, "is_loaded_in_4bit", False) and not params.accelerate_config:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def optimizer(params: TrainingParams) -> str:
    """Return the name of the optimizer in transformers."""
    if params.optimizer != "auto":
        return params.optimizer
    if params.load_in_4bit:  # which needs bitsandbytes anyway
        return "adamw_8bit"
    # Of all weights, the one that is not fused takes longer than the step on a CPU.
    return "adamw_torch_fused" if cuda() or params.method == "full" else "adamw_torch"


def has_cpu_step(config: Any, params: TrainingParams) -> bool:
    """Tell whether ``training/cpu_step.py`` can compute the steps of a base on a CPU.

    Args:
        config: The base's configuration, as transformers reads it.
        params: Hyper-parameters.
    """
    lora = params.lora
    # A kernel or a layout that somebody chose is TRL's to take, and Unsloth computes the loss itself.
    asked = params.packing != "auto" or params.attention != "auto" or params.backend == "unsloth"
    plain = lora.dropout == 0 and lora.bias == "none" and not lora.dora
    plain = plain and (lora.target_modules == "all-linear" or set(lora.target_modules) <= _JOINED)
    if params.method == "full":
        plain = weights_dtype(params) == "float32"  # as the gradients are
    plain = plain and params.neftune_noise_alpha is None and not getattr(config, "attention_dropout", 0)
    quantised = params.load_in_4bit or getattr(config, "quantization_config", None) is not None
    known = config.model_type in ("llama", "mistral", "qwen2", "qwen3") and config.hidden_act == "silu"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    whole = kinds == {"full_attention"} and (window is None or window >= params.max_seq_length)
    return plain and known and whole and not (asked or quantised or params.gradient_checkpointing)


_JOINED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""The linear layers of a block of which ``training/cpu_step.py`` computes gradients."""


def four_bit_error(inputs: int = 64, outputs: int = 64) -> BackendError | None:
    """Return why this machine cannot train on a 4-bit base, or None where it can.

    A layer of the given width is quantised, and a gradient taken through it: bitsandbytes replaces each kernel that its
    library lacks by one that raises when it is called, so that importing it proves nothing.

    Args:
        inputs: Input features of the layer that is tried.
        outputs: Its output features.
    """
    where = "training.load_in_4bit"
    if importlib.util.find_spec("bitsandbytes") is None:
        fix = "Install it with: pip install -e '.[nf4]', or set it to false."
        return BackendError("bitsandbytes is not installed, which 4-bit loading needs.", where=where, fix=fix)
    import torch

    try:
        from bitsandbytes.nn import Linear4bit

        layer = Linear4bit(inputs, outputs, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        layer = layer.to("cuda" if cuda() else "cpu")
        keep_unpacked(layer)
        given = torch.ones(1, inputs, device=layer.weight.device, requires_grad=True)
        layer(given).sum().backward()
    except (ImportError, OSError, RuntimeError, AssertionError, AttributeError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        fix = "Set it to false, or reinstall it with: pip install -e '.[nf4]'."
        what = f"bitsandbytes cannot train a 4-bit layer of {inputs} x {outputs} weights here ({reason})."
        return BackendError(what, where=where, fix=fix)
    return None


def _set_compute_dtype(model: Any, params: TrainingParams) -> None:
    """Have 4-bit layers on a CPU compute as the parameters say; a base that is stored so names a type for GPUs."""
    if not cuda():
        for module in model.modules():
            if hasattr(module, "compute_type_is_set"):
                module.compute_dtype = _compute_dtype(params)


def _unsloth_fix() -> str:
    if cuda():
        return "Install it with: pip install -e '.[gpu]', or set training.backend=transformers."
    return "Run make unsloth, and then .venv-unsloth/bin/kedro; or set training.backend=transformers."


def _with_transformers(base: BaseModel, params: TrainingParams) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    options: dict[str, Any] = {"dtype": getattr(torch, weights_dtype(params))}
    if _attention(params):
        options["attn_implementation"] = _attention(params)
    if cuda():
        options["device_map"] = {"": torch.cuda.current_device()}
    if params.load_in_4bit:
        if error := four_bit_error():
            raise error
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=_compute_dtype(params),
        )
    model = load_model(base, **options)
    if params.method == "full":
        return model
    _set_compute_dtype(model, params)
    check_target_modules([name for name, _ in model.named_modules()], params)
    if params.load_in_4bit and cuda():
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=params.gradient_checkpointing)
    targets = params.lora.target_modules
    return get_peft_model(
        model,
        LoraConfig(
            task_type=params.lora.task_type,
            r=params.lora.r,
            lora_alpha=params.lora.alpha,
            lora_dropout=params.lora.dropout,
            bias=params.lora.bias,
            target_modules=targets if isinstance(targets, str) else list(targets),
            use_rslora=params.lora.rslora,
            use_dora=params.lora.dora,
        ),
    )


def _with_unsloth(base: BaseModel, params: TrainingParams) -> Any:
    """The arguments are those of ``unsloth/models/loader.py`` and ``llama.py`` in unsloth 2026.10.

    Its CPU backend (``unsloth_zoo/cpu/loader.py``) takes the same, and ignores what only a GPU has.
    """
    import torch
    from unsloth import FastLanguageModel

    if params.load_in_4bit and (error := four_bit_error()):
        raise error  # unsloth would load 16 bit instead
    on_gpu: dict[str, Any] = {"device_map": {"": torch.cuda.current_device()}} if cuda() else {}
    model, _ = FastLanguageModel.from_pretrained(
        model_name=base.location,
        revision=base.revision,
        max_seq_length=params.max_seq_length,
        dtype=None
        if cuda() and params.dtype == "auto" and params.method == "lora"
        else getattr(torch, weights_dtype(params)),
        load_in_4bit=params.load_in_4bit,
        use_gradient_checkpointing="unsloth" if params.gradient_checkpointing else False,
        random_state=params.seed,
        trust_remote_code=False,
        use_safetensors=True,
        full_finetuning=params.method == "full",
        use_exact_model_name=True,  # otherwise it may load a quantised copy from another repository
        **(on_gpu or {"attn_implementation": _attention(params)}),
    )
    if params.method == "full":
        return model
    _set_compute_dtype(model, params)
    check_target_modules([name for name, _ in model.named_modules()], params)
    targets = params.lora.target_modules
    return FastLanguageModel.get_peft_model(
        model,
        r=params.lora.r,
        lora_alpha=params.lora.alpha,
        lora_dropout=params.lora.dropout,
        bias=params.lora.bias,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_gradient_checkpointing="unsloth" if params.gradient_checkpointing else False,
        random_state=params.seed,
        use_rslora=params.lora.rslora,
        use_dora=params.lora.dora,
    )


def check_target_modules(modules: list[str], params: TrainingParams) -> None:
    """Check that the base has every target module.

    Raises:
        BackendError: A module is missing; the message names it and the linear layers that the base has.
    """
    if params.method == "full" or isinstance(params.lora.target_modules, str):
        return
    if "lm_head" in params.lora.target_modules:
        raise BackendError(
            "the output head takes no adapter: the loss is computed by a head of its own.",
            where="training.lora.target_modules",
            fix="Leave lm_head out, or train all weights with training.method=full.",
        )
    names = {name.rsplit(".", 1)[-1] for name in modules}
    missing = [name for name in params.lora.target_modules if name not in names]
    if missing:
        linear = sorted(name for name in names if "proj" in name or name.startswith(("fc", "dense")))
        raise BackendError(
            f"the base has no module {', '.join(missing)}.",
            where="training.lora.target_modules",
            fix=f"Choose from its linear layers: {', '.join(linear)}; or set all-linear.",
        )


def _attention(params: TrainingParams) -> str | None:
    """Return the attention kernel to request; None uses the default of the base."""
    if params.attention != "auto":
        return params.attention
    return "flash_attention_2" if cuda() and importlib.util.find_spec("flash_attn") else None
