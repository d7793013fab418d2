"""A tokenizer that llguidance reads otherwise than it writes is refused at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from odin_slm.config.parameters import TaskParams, TrainingParams
from odin_slm.core.errors import BaseModelError
from odin_slm.core.record import render_prompt
from odin_slm.inference.decoding.constraint import Vocabulary
from odin_slm.inference.generation import Generator
from odin_slm.models.base_model import BaseModel, load_tokenizer
from odin_slm.pipelines.training.nodes import check_training
from odin_slm.tasks.extraction.grammar import ExtractionGrammar

TEXT = "Aspirin caused nausea."


@pytest.fixture
def converted(tiny_base: Path, tmp_path: Path) -> BaseModel:
    """A byte-level tokenizer with the decoder of a SentencePiece one, as transformers makes it of a GGUF file."""
    folder = tmp_path / "converted"
    shutil.copytree(tiny_base, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    tokenizer["decoder"] = {
        "type": "Sequence",
        "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, replace, byte_level],
    }
    tokenizer["model"]["byte_fallback"] = True
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return BaseModel("converted", folder)


def test_it_is_refused_before_anything_is_generated(converted: BaseModel) -> None:
    outputs: list[Any] = []
    generator = Generator(converted)
    prompts = [render_prompt("Extract entities: Drug. Relations: causes.", TEXT)]
    rows = generator.rows(prompts, max_new_tokens=4, grammars=[ExtractionGrammar(TEXT)])
    with pytest.raises(BaseModelError, match=r"its token \d+ .* writes .*, and llguidance reads") as caught:
        generator.write(rows, outputs.append)
    assert not outputs
    assert caught.value.where.endswith("converted")
    assert "decoding=free" in caught.value.fix
    generator.write(generator.rows(prompts, max_new_tokens=4), outputs.append)
    assert len(outputs) == 1, "free decoding asks no grammar"


def test_a_training_warns_before_it_starts(converted: BaseModel, caplog: pytest.LogCaptureFixture) -> None:
    assert check_training(converted, TaskParams(), TrainingParams())["parameters"] > 0
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "The evaluation will be free or fail" in warning.message


def test_the_tokenizers_in_use_pass(tiny_base: Path) -> None:
    for folder in (tiny_base, Path(__file__).parents[2] / "data/06_models/odin-nano"):
        tokenizer = load_tokenizer(BaseModel("base", folder))
        Vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])


def test_a_text_token_that_counts_as_special_is_named(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(BaseModel("base", tiny_base))
    tokenizer.add_special_tokens({"extra_special_tokens": ["IL-2"]})
    with pytest.raises(BaseModelError, match=r"5'-FU → .* it refuses token \d+"):
        Vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
