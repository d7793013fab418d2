"""Bases that pad with their end token, or name no token to pad with: SmolLM2, Qwen 2.5, Llama 3."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import BaseModelError
from odin_slm.core.record import render_prompt
from odin_slm.inference.generation import generate
from odin_slm.inference.vllm import prompt_rows
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.training.collation import IGNORED, Collator, check_mask, tokenise
from odin_slm.training.lora import train_lora
from odin_slm.training.packing import pack
from training.test_training import records

PARAMS = TrainingParams(
    max_seq_length=400, epochs=4, batch_size=4, logging_steps=1, evaluations=1, learning_rate=0.01, lora=LoraParams(r=4)
)


def laid_out(tiny_base: Path, folder: Path, pad: str | None, reserved: str = "<|im_start|>") -> BaseModel:
    """Return the tiny base with another pad token; what was ``<|pad|>`` is called ``reserved``."""
    shutil.copytree(tiny_base, folder)

    def change(name: str, **values: Any) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        content |= values
        (folder / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")

    file = folder / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace("<|pad|>", reserved), encoding="utf-8")
    change("tokenizer_config.json", pad_token=pad)
    number = {None: None, "<|endoftext|>": 0}[pad]
    change("config.json", pad_token_id=number)
    change("generation_config.json", pad_token_id=number)
    return BaseModel("tiny", folder)


@pytest.fixture(params=["<|endoftext|>", None], ids=["pad is eos", "no pad"])
def base(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> BaseModel:
    return laid_out(tiny_base, tmp_path / "base", request.param)


def varied(count: int, start: int = 0) -> list[Any]:
    return [{**record, "input": record["input"] * (1 + n % 3)} for n, record in enumerate(records(count, start))]


def test_the_end_carries_its_loss_and_the_padding_none(base: BaseModel) -> None:
    tokenizer = load_tokenizer(base)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    rows = tokenise(tokenizer, varied(3), 400)
    check_mask(tokenizer, varied(3), rows)
    batch = Collator(tokenizer.pad_token_id)(rows)
    for row, ids, labels, mask in zip(rows, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        length = len(row["input_ids"])
        assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
        assert (ids[length - 1], labels[length - 1]) == (0, 0)
        assert (labels[length:] == IGNORED).all()
        assert (ids[length:] == 0).all()
    packed = pack(batch, 2000)
    assert int((packed["labels"] == 0).sum()) == len(rows), "an end an example"


@pytest.mark.parametrize("packing", [False, True])
def test_training_is_that_of_a_base_with_a_token_to_pad_with(
    base: BaseModel, tiny_base: Path, tmp_path: Path, packing: bool
) -> None:
    import torch
    from safetensors.torch import load_file

    params = PARAMS.model_copy(update={"max_steps": 6, "packing": packing})
    adapters = [
        train_lora(of, varied(12), varied(2, 100), tmp_path / name, params, lambda *_: None)[0]
        for of, name in ((base, "own"), (BaseModel("tiny", tiny_base), "other"))
    ]
    own, other = (load_file(adapter / "adapter_model.safetensors") for adapter in adapters)
    torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)
    assert json.loads((adapters[0] / "tokenizer_config.json").read_text())["pad_token"] == "<|endoftext|>"


def test_the_model_learns_to_end(base: BaseModel, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file, save_file

    weights = load_file(file := Path(base.location) / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 25  # as they are, its logits are too much alike for an adapter to part them
    save_file(weights, file, metadata={"format": "pt"})
    tokenizer = load_tokenizer(base)
    row = tokenise(tokenizer, records(1, 200), 400)[0]["input_ids"]

    def chance_of_the_end(model: Any) -> float:
        with torch.no_grad():
            return float(model(input_ids=torch.tensor([row[:-1]])).logits[0, -1].softmax(-1)[tokenizer.eos_token_id])

    before = chance_of_the_end(load_model(base))
    adapter, _ = train_lora(base, records(24), records(4, 100), tmp_path / "work", PARAMS, lambda *_: None)
    after = chance_of_the_end(PeftModel.from_pretrained(load_model(base), str(adapter)))
    assert after > 100 * before


def test_a_batch_says_what_its_rows_say_alone(base: BaseModel) -> None:
    prompts = [render_prompt("Extract entities: Drug.", "aspirin " * length) for length in (1, 9, 30)]
    together = generate(base, None, prompts, batch_size=3, max_new_tokens=12)
    alone = [generate(base, None, [prompt], batch_size=1, max_new_tokens=12)[0].text for prompt in prompts]
    assert [output.text for output in together] == alone
    rows = prompt_rows(load_tokenizer(base), 1024, prompts, None, 12)
    assert all(0 not in row.prompt for row in rows), "nothing is padded for vLLM"


def test_a_reserved_token_pads_where_none_is_named(tiny_base: Path, tmp_path: Path) -> None:
    base = laid_out(tiny_base, tmp_path / "base", None, reserved="<|finetune_right_pad_id|>")
    assert load_tokenizer(base).pad_token == "<|finetune_right_pad_id|>"


def test_a_base_that_cannot_end_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token"}))
    with pytest.raises(BaseModelError, match="names no end-of-sequence token") as caught:
        load_tokenizer(BaseModel("tiny", folder))
    assert "eos_token" in caught.value.fix
