"""Backends that load a base and add an adapter: transformers with PEFT on any device, unsloth on CUDA.

Both return a PEFT model, so training loop, saved adapter, state and metrics do not depend on the backend.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from typing import Any, Literal

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError
from odin_slm.models.base_model import BaseModel, load_model

Name = Literal["transformers", "unsloth"]


def choose(params: TrainingParams) -> Name:
    """Return the backend to use on this machine.

    Raises:
        BackendError: The parameters ask for ``unsloth``, but it is not installed or there is no CUDA device.
    """
    missing = _unsloth_lacks()
    if params.backend == "unsloth" and missing:
        raise BackendError(missing[0], where="training.backend", fix=f"{missing[1]}, or set it to transformers.")
    if params.backend == "auto":
        return "transformers" if missing else "unsloth"
    return params.backend


def needs_process(name: Name) -> bool:
    """Tell whether a backend needs a separate process.

    unsloth patches transformers, PEFT and TRL on import, and has to be imported before them.
    """
    return name == "unsloth" and "unsloth" not in sys.modules and "transformers" in sys.modules


def prepare(name: Name) -> None:
    """Import unsloth, which has to come before transformers, and disable its fallback to the CPU.

    Raises:
        BackendError: unsloth cannot be imported.
    """
    if name == "unsloth":
        # Without a driver it would silently train on the CPU.
        os.environ["UNSLOTH_DISABLE_CPU_FALLBACK"] = "1"
        os.environ.pop("UNSLOTH_ALLOW_CPU", None)
        try:
            importlib.import_module("unsloth")
        except (ImportError, NotImplementedError, RuntimeError) as error:
            raise BackendError(
                f"unsloth cannot be loaded ({str(error).splitlines()[0] if str(error) else type(error).__name__}).",
                where="training.backend",
                fix="Reinstall it with: pip install -e '.[gpu]', or set training.backend=transformers.",
            ) from error


def with_adapter(name: Name, base: BaseModel, params: TrainingParams) -> Any:
    """Return the frozen base with a new adapter on its target modules, as a PEFT model.

    Raises:
        BackendError: The base lacks a target module, or 4-bit loading is asked for without CUDA.
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


@functools.cache
def multiplies_faster_in_bf16() -> bool:
    """Tell whether this CPU multiplies bfloat16 matrices at least 1.5 times as fast as float32 ones, by timing both.

    A processor with AMX does several times as fast; others convert, or have slow instructions, whatever they announce.
    """
    import time

    import torch

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(512, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
        times = []
        for _ in range(6):
            begin = time.perf_counter()
            torch.nn.functional.linear(left, right)
            times.append(time.perf_counter() - begin)
        return min(times)

    return seconds(torch.float32) >= 1.5 * seconds(torch.bfloat16)


def weights_dtype(params: TrainingParams) -> str:
    """Return the torch data type of the frozen weights, unless they are quantised."""
    if params.dtype != "auto":
        return params.dtype
    import torch

    return "bfloat16" if cuda() and torch.cuda.is_bf16_supported() else "float32"


def optimizer(params: TrainingParams) -> str:
    """Return the name of the optimizer in transformers."""
    if params.optimizer != "auto":
        return params.optimizer
    if params.load_in_4bit:  # which needs bitsandbytes anyway
        return "adamw_8bit"
    return "adamw_torch_fused" if cuda() else "adamw_torch"


def has_cpu_step(config: Any, params: TrainingParams) -> bool:
    """Tell whether ``training/cpu_step.py`` can compute the steps of a base on a CPU.

    Args:
        config: The base's configuration, as transformers reads it.
        params: Hyper-parameters.
    """
    lora = params.lora
    asked = params.packing != "auto" or params.attention != "auto"  # of TRL's step
    plain = lora.dropout == 0 and lora.bias == "none" and not lora.dora and params.neftune_noise_alpha is None
    quantised = params.load_in_4bit or getattr(config, "quantization_config", None) is not None
    known = config.model_type in ("llama", "mistral", "qwen2", "qwen3") and config.hidden_act == "silu"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    whole = kinds == {"full_attention"} and (window is None or window >= params.max_seq_length)
    return plain and known and whole and not (asked or quantised or params.gradient_checkpointing)


def _unsloth_lacks() -> tuple[str, str] | None:
    if not cuda():
        return "unsloth needs a CUDA device, and there is none.", "Run on an NVIDIA GPU"
    if importlib.util.find_spec("unsloth") is None:
        return "unsloth is not installed.", "Install it with: pip install -e '.[gpu]'"
    return None


def _with_transformers(base: BaseModel, params: TrainingParams) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    options: dict[str, Any] = {"dtype": getattr(torch, weights_dtype(params))}
    if _attention(params):
        options["attn_implementation"] = _attention(params)
    if cuda():
        options["device_map"] = {"": torch.cuda.current_device()}
    if params.load_in_4bit:
        if not cuda():
            raise BackendError(
                "4-bit loading needs a CUDA device.",
                where="training.load_in_4bit",
                fix="Set it to false, or run on a GPU.",
            )
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    model = load_model(base, **options)
    check_target_modules([name for name, _ in model.named_modules()], params)
    if params.load_in_4bit:
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
    """The arguments are those of ``unsloth/models/loader.py`` and ``llama.py`` in unsloth 2026.10."""
    import torch
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        model_name=base.location,
        revision=base.revision,
        max_seq_length=params.max_seq_length,
        dtype=None if params.dtype == "auto" else getattr(torch, params.dtype),
        load_in_4bit=params.load_in_4bit,
        device_map={"": torch.cuda.current_device()},
        use_gradient_checkpointing="unsloth" if params.gradient_checkpointing else False,
        random_state=params.seed,
        trust_remote_code=False,
        use_safetensors=True,
        use_exact_model_name=True,  # otherwise it may load a quantised copy from another repository
    )
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
    if isinstance(params.lora.target_modules, str):
        return
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
