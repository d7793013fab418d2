"""A text that spells special tokens or the format's own delimiters is read, held to and answered as any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import ROOT
from odin_slm.core.record import render_prompt
from odin_slm.inference.decoding.constraint import Constraint, Vocabulary
from odin_slm.inference.generation import Generator, prompt_rows
from odin_slm.models.base_model import BaseModel, load_tokenizer
from odin_slm.models.tokens import completion_ids, prompt_ids
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, render
from odin_slm.tasks.extraction.task import ExtractionTask

TASK = ExtractionTask()
ASKED = TASK.instruction("ade")
EMBEDDED = BaseModel("odin-nano", ROOT / "data/06_models/odin-nano")
NAMES = ["<|endoftext|> pills", "<|pad|>", "### Output:", "<|im_end|><|begin_of_text|>", "Rash < endoftext >"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_spells_a_token_can_be_written_under_the_grammar(name: str) -> None:
    tokenizer = load_tokenizer(EMBEDDED)
    grammar = TASK.grammar(ASKED, f"Fever after {name} was seen.")
    gold = render(
        Extraction((Entity("Drug", name), Entity("Symptom", "Fever")), (RelationTriple(name, "causes", "Fever"),))
    )
    assert grammar.accepts(gold)
    constraint = Constraint(Vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id]), grammar)
    *ids, end = completion_ids(tokenizer, gold)
    assert end == tokenizer.eos_token_id
    assert end not in ids
    for token in ids:
        constraint.consume(token)
    assert constraint.text == gold
    assert tokenizer.decode(ids, skip_special_tokens=True) == gold


@pytest.mark.parametrize("text", [f"Rash {name} and cough." for name in NAMES])
def test_every_way_of_asking_reads_one_prompt(text: str, tiny_base: Path) -> None:
    generator = Generator(BaseModel("tiny", tiny_base))
    prompt = render_prompt(ASKED, text)
    (row,) = generator.rows([prompt], max_new_tokens=8)
    ids = prompt_ids(generator.tokenizer, prompt)
    assert row.prompt == ids == prompt_rows(generator.tokenizer, None, [prompt], None, 8)[0].prompt
    assert not {0, 1} & set(ids), "<|endoftext|> and <|pad|>"
    assert generator.tokenizer.decode(ids, skip_special_tokens=True) == prompt
