"""Bases with special tokens of another layout: no pad token, one that is another one's, or that the model has not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, processors

from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import BaseModelError
from odin_slm.core.record import render_prompt
from odin_slm.inference.decoding.constrained_generate import constrained_generate
from odin_slm.inference.generation import Generator, generate
from odin_slm.models import preflight
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.models.tokens import end_tokens, prompt_ids
from odin_slm.tasks.extraction.task import ExtractionTask
from odin_slm.training.lora import train_lora
from training.test_training import records

TASK = ExtractionTask()
PARAMS = TrainingParams(
    max_seq_length=400, epochs=1, max_steps=2, batch_size=4, evaluations=1, generation_samples=1, lora=LoraParams(r=4)
)
LAYOUTS: dict[str, dict[str, Any]] = {
    "no pad token": {},
    "pad is bos": {"bos": "<|pad|>", "pad": "<|pad|>", "leads": True, "number": 1},
    "pad is unk": {"unk": "<|pad|>", "pad": "<|pad|>", "number": 1},
    "pad beyond the embeddings": {"added": ("<pad>",), "pad": "<pad>", "number": 512},
    "pad is -1": {"number": -1},
    "added tokens beyond the embeddings": {"added": ("<|im_start|>", "<tool_call>"), "number": 0},
    "several ends": {"ends": [0, 300, 128009], "number": None},
    "Llama 3": {"added": ("<|eot_id|>",), "bos": "<|pad|>", "leads": True, "ends": [0, 512], "number": None},
}


def laid_out(tiny_base: Path, folder: Path, **layout: Any) -> BaseModel:
    """Return a copy of the tiny base (512 embeddings) with other special tokens."""
    shutil.copytree(tiny_base, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"word{n}" for n in range(tokenizer.get_vocab_size(), 512)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in layout.get("added", ()) if "tool" not in t])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in layout.get("added", ()) if "tool" in t])
    if layout.get("leads"):
        bos = layout["bos"]
        number = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {f"{role}_token": layout.get(role) for role in ("pad", "bos", "unk")}
    change(folder / "tokenizer_config.json", **roles)
    change(folder / "config.json", pad_token_id=layout.get("number"))
    change(folder / "generation_config.json", pad_token_id=None, eos_token_id=layout.get("ends", 0))
    return BaseModel("tiny", folder)


def change(file: Path, **values: Any) -> None:
    content = {**json.loads(file.read_text(encoding="utf-8")), **values}
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_trains_and_writes(layout: str, tiny_base: Path, tmp_path: Path) -> None:
    chosen = LAYOUTS[layout]
    base = laid_out(tiny_base, tmp_path / "base", **chosen)
    tokenizer = load_tokenizer(base)
    assert tokenizer.pad_token_id < 512
    assert (prompt_ids(tokenizer, "a")[0] == tokenizer.bos_token_id) == bool(chosen.get("leads"))
    preflight.check(base, PARAMS)
    adapter, state = train_lora(base, records(8), records(2, 100), tmp_path / "work", PARAMS, lambda *_: None)
    assert state["steps"] == 2
    texts = ["aspirin", "aspirin and nausea " * 9]
    prompts = [render_prompt(TASK.instruction("ade"), text) for text in texts]
    grammars = [TASK.grammar(TASK.instruction("ade"), text) for text in texts]
    loaded = Generator(base, adapter)
    options: dict[str, Any] = {"batch_size": 2, "max_new_tokens": 12, "loaded": loaded}
    free = generate(base, adapter, prompts, **options)
    assert [one.text for one in free] == [generate(base, adapter, [p], **options)[0].text for p in prompts]
    held = generate(base, adapter, prompts, grammars=grammars, **options)
    assert all(grammar.accepts(one.text) for grammar, one in zip(grammars, held, strict=True))
    model = load_model(base)
    assert end_tokens(model, tokenizer) == {n for n in chosen.get("ends", [0]) if n < 512}
    if "ends" in chosen:
        generic = constrained_generate(model, tokenizer, prompts, [*grammars[:1], None], 2, 12)
        assert generic[0].startswith("### Entities:\n")


@pytest.mark.parametrize(
    ("layout", "named"),
    [({"added": ("enalapril tool",)}, "enalapril tool"), ({"added": ("<s>",), "bos": "<s>"}, "its bos token '<s>'")],
)
def test_a_token_that_the_model_has_not_is_named(
    layout: dict[str, Any], named: str, tiny_base: Path, tmp_path: Path
) -> None:
    base = laid_out(tiny_base, tmp_path / "base", **layout)
    with pytest.raises(BaseModelError, match=f"{named}.* has the id 512, and the model only 512 embeddings"):
        load_tokenizer(base)
