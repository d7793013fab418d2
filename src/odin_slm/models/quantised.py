"""A base that its publisher quantised: whether this machine can load it, and train an adapter on it.

What a kind needs is asked of transformers' own quantizers, which know it by package and by device, and read no weights.
"""

from __future__ import annotations

import copy
from typing import Any

from odin_slm.core.errors import BackendError
from odin_slm.models.base_model import BaseModel

_OTHER = "or name the repository of the same base in 16 bit."
_FIXES = {
    "bitsandbytes": "It needs CUDA and pip install -e '.[gpu]', or on a CPU, for 4 bits, pip install -e '.[nf4]'; "
    f"install that, {_OTHER}"
}


def method_of(config: Any) -> str | None:
    """Return how a base is quantised, as its configuration says; None for one that is not."""
    given = _given(config)
    if not given:
        return None
    by_bits = "bitsandbytes" if given.get("load_in_4bit") or given.get("load_in_8bit") else "an unnamed method"
    method = given.get("quant_method") or by_bits
    return str(getattr(method, "value", method))


def check_quantised(
    base: BaseModel, config: Any, *, for_training: bool = False, layer: tuple[int, int] = (64, 64)
) -> None:
    """Check that a quantised base can be used here; one that is not quantised can.

    Args:
        base: The base.
        config: Its configuration, as transformers reads it.
        for_training: Whether an adapter is to be trained on it.
        layer: Input and output features of the layer that 4 bits are tried on.

    Raises:
        BackendError: Transformers does not know the method, a package or a device is missing, or nothing can be
            trained on such weights.
    """
    method = method_of(config)
    if method is None:
        return
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer

    from odin_slm.models.backends import four_bit_error

    fix = _FIXES.get(method, f"Use a machine that has what is missing, {_OTHER}")
    try:
        if not any(name.startswith(method) for name in AUTO_QUANTIZATION_CONFIG_MAPPING):
            raise ValueError(f"transformers knows {', '.join(sorted(AUTO_QUANTIZATION_CONFIG_MAPPING))}")
        if _given(config).get("load_in_4bit") and (error := four_bit_error(*layer)):
            raise RuntimeError(error.what)
        quantizer = AutoHfQuantizer.from_config(copy.deepcopy(_given(config)), pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
    except Exception as failure:  # every quantizer raises what its packages do
        reason = (str(failure).strip() or type(failure).__name__).splitlines()[0].rstrip(".")
        raise BackendError(
            f"the base is quantised with {method}, and cannot be loaded on this machine ({reason}).",
            where=base.source,
            fix=fix,
        ) from failure
    dequantised = getattr(quantizer.quantization_config, "dequantize", False)
    if for_training and not (quantizer.is_trainable or dequantised):
        raise BackendError(
            f"the base is quantised with {method}, and no adapter can be trained on such weights.",
            where=base.source,
            fix=f"Train on a base quantised with bitsandbytes, {_OTHER}",
        )


def _given(config: Any) -> dict[str, Any]:
    for place in (config, config.get_text_config()):
        found = getattr(place, "quantization_config", None) or getattr(place, "compression_config", None)
        if found:
            return dict(found if isinstance(found, dict) else found.to_dict())
    return {}
