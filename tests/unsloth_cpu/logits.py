"""Logits of adapters, as Unsloth and as this project load them: ADAPTERS IDS OUT, the first two in JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(adapters: str, ids: str, out: str) -> None:
    """Compute and save; Unsloth's changes to transformers hold for both."""
    from unsloth import FastLanguageModel  # isort: skip, before transformers
    import torch
    from peft import PeftModel
    from safetensors.torch import save_file

    from odin_slm.models.base_model import BaseModel, load_model

    def save(model: Any, name: str) -> None:
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([json.loads(ids)])).logits
        save_file({"logits": logits.contiguous()}, Path(out) / f"{name}.safetensors")

    for name, adapter in json.loads(adapters).items():
        source = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))[
            "base_model_name_or_path"
        ]
        save(PeftModel.from_pretrained(load_model(BaseModel(source, Path(source))), adapter), f"{name} in transformers")
        model, _ = FastLanguageModel.from_pretrained(adapter, dtype=torch.float32, load_in_4bit=False)
        save(model, f"{name} in unsloth")


if __name__ == "__main__":
    main(*sys.argv[1:])
