"""Forward and backward passes of the trainer in one backend: BACKEND BASE CASES RECORDS OUT.

CASES is JSON, name -> parameters. The adapter's weights are drawn by a seed, so that both backends start from the same
ones. For each case the folder OUT gets a safetensors file of the gradients, with the losses of training and evaluation
in its metadata.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from odin_slm.models import backends


def main(backend: str, source: str, cases: str, records: str, out: str) -> None:
    """Compute and save all cases."""
    backends.prepare(backend)  # type: ignore[arg-type]
    for name, values in json.loads(cases).items():
        step(backend, source, values, Path(records), Path(out) / f"{name}.safetensors")


def step(backend: str, source: str, values: dict[str, object], records: Path, out: Path) -> None:
    """Compute and save one case."""
    import torch
    from safetensors.torch import save_file
    from trl import SFTTrainer

    from odin_slm.config.parameters import TrainingParams
    from odin_slm.models.base_model import BaseModel, load_tokenizer
    from odin_slm.training import lm_head, lora
    from odin_slm.training.collation import Collator, dataset_of, tokenise

    lm_head.install()
    base, params = BaseModel(source, Path(source)), TrainingParams.model_validate(values)
    tokenizer = load_tokenizer(base)
    model = backends.with_adapter(backend, base, params)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(params.seed)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    rows = tokenise(tokenizer, json.loads(records.read_text(encoding="utf-8")), params.max_seq_length)
    trainer = SFTTrainer(
        model=model,
        args=lora._arguments(params, Path(tempfile.mkdtemp()), 1, None),
        train_dataset=dataset_of(rows),
        eval_dataset=dataset_of(rows),
        processing_class=tokenizer,
        data_collator=Collator(tokenizer.pad_token_id),
    )
    backends.keep_adapter_precision(model, params)
    evaluated = trainer.evaluate()["eval_loss"]  # first: what it does to the weights must not reach the gradients
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.training_step(trainer.model, batch, (batch["labels"][:, 1:] != -100).sum())
    gradients = {name: p.grad.float().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    kinds = sorted({type(module).__name__ for module in trainer.model.modules() if "Linear" in type(module).__name__})
    save_file(gradients, out, {"loss": str(float(loss)), "eval_loss": str(evaluated), "kinds": " ".join(kinds)})


if __name__ == "__main__":
    main(*sys.argv[1:])
