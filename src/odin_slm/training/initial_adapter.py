"""The adapter that a training continues, instead of starting a new one."""

from __future__ import annotations

import json
import logging
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import AdapterError
from odin_slm.core.hashing import sha256_of
from odin_slm.inference.generation import check_config
from odin_slm.models.base_model import BaseModel, check_safetensors, trained_weights

logger = logging.getLogger(__name__)

_SETTINGS = {"r": "r", "alpha": "lora_alpha", "bias": "bias", "rslora": "use_rslora", "dora": "use_dora"}
"""Setting of ``training.lora`` -> its name in PEFT's configuration."""
_ABSENT = {"bias": "none", "rslora": False, "dora": False}
"""What a setting was where a configuration, of before it existed, does not name it."""


def describe_initial(base: BaseModel, params: TrainingParams) -> dict[str, Any] | None:
    """Check the adapter that ``params.from_adapter`` names, before the base is loaded.

    Returns:
        ``adapter_sha256`` of its weights, and ``learned``: the sha256 of the splits that it was trained on, of every
        training in turn, or None where the adapter does not say; None where training starts from a new adapter.

    Raises:
        AdapterError: The folder holds no LoRA adapter, or one of other settings than ``params.lora``.
        BaseModelError: Its weights cannot be read.
    """
    folder = params.from_adapter
    if folder is None:
        return None
    check_config(folder)
    check_safetensors(trained_weights(folder))
    configuration = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    found = {key: configuration.get(name, _ABSENT.get(key)) for key, name in _SETTINGS.items()}
    named = {key: (getattr(params.lora, key), value) for key, value in found.items()}
    targets = params.lora.target_modules, configuration.get("target_modules")
    if not any(isinstance(one, str) for one in targets):  # all-linear is compared by the weights' names
        named["target_modules"] = sorted(targets[0]), sorted(targets[1] or ())
    if other := {key: there for key, (here, there) in named.items() if here != there}:
        raise AdapterError(
            "it was trained with other settings than this training has.",
            where=f"training.from_adapter={folder}",
            fix="Set " + ", ".join(f"training.lora.{key}={value}" for key, value in other.items()) + ".",
        )
    if patterns := [name for name in ("alpha_pattern", "rank_pattern") if configuration.get(name)]:
        raise AdapterError(
            f"it has a {patterns[0]}: layers with a rank or a scale of their own, which no training here has.",
            where=f"training.from_adapter={folder}",
            fix="Name an adapter without one, or merge it and name the whole model as base_model.",
        )
    if configuration.get("base_model_name_or_path") != base.source:
        logger.warning(
            "The adapter in %s names the base %s, and this training has %s: they have to be the same weights.",
            *(folder, configuration.get("base_model_name_or_path"), base.source),
        )
    task = folder / "task.json"
    learned = json.loads(task.read_text(encoding="utf-8")).get("learned") if task.is_file() else None
    return {"adapter_sha256": sha256_of(trained_weights(folder)), "learned": learned}


def load_initial(model: Any, params: TrainingParams) -> None:
    """Give a PEFT model's new adapter the weights that ``params.from_adapter`` names, if it names any.

    Raises:
        AdapterError: They do not fit the model.
    """
    if params.from_adapter is None:
        return
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(trained_weights(params.from_adapter))
    new = get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes, expected = ({name: tuple(one.shape) for name, one in state.items()} for state in (weights, new))
    if shapes != expected:
        name = next(iter(sorted(shapes.items() ^ expected.items())))[0]
        raise AdapterError(
            f"its weights do not fit the base: {name} is {shapes.get(name, 'missing')}, "
            f"expected {expected.get(name, 'none')}.",
            where=f"training.from_adapter={params.from_adapter}",
            fix="Name the base that it was trained on: --params base_model=DIR_OR_HUB_ID.",
        )
    set_peft_model_state_dict(model, weights)
