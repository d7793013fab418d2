"""Outputs weighed against each other in one pass, compared with a model that reads each of them alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from odin_slm.core.errors import RecordTooLongError
from odin_slm.core.record import render_prompt
from odin_slm.inference.decoding.scoring import TokenTree, log_shares
from odin_slm.inference.generation import Generator, generate
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.models.tokens import completion_ids, prompt_ids
from odin_slm.tasks.extraction.format import parse
from odin_slm.tasks.extraction.task import ExtractionTask

PROMPT = render_prompt("Extract entities: Drug, Symptom. Relations: causes.", "Aspirin, then aspirin K, caused nausea.")
HEAD = "### Entities:\n1. [Drug] aspirin\n2. [Drug] aspirin K\n\n### Relations:\n"
OUTPUTS = [
    f"{HEAD}None",
    f"{HEAD}1. aspirin --[causes]--> nausea",
    f"{HEAD}1. aspirin K --[causes]--> nausea",
    f"{HEAD}1. aspirin --[treats]--> nausea and cough",
    f"{HEAD}1. aspirin --[causes]--> nausea and cough",
]


@pytest.fixture(scope="module")
def base(talkative_base: Path) -> BaseModel:
    return BaseModel("talkative", talkative_base)


@pytest.fixture(scope="module")
def generator(base: BaseModel) -> Generator:
    return Generator(base)


def shares(generator: Generator, outputs: list[str]) -> list[float]:
    """Weigh outputs after the prompt."""
    return log_shares(generator, prompt_ids(generator.tokenizer, PROMPT), outputs)


def one_by_one(base: BaseModel, outputs: list[str]) -> list[float]:
    """Read every output alone, by the layers of transformers; at each token only what some output says may follow."""
    model, tokenizer = load_model(base).eval(), load_tokenizer(base)
    begin = prompt_ids(tokenizer, PROMPT)
    written = [completion_ids(tokenizer, output) for output in outputs]
    found = []
    for ids in written:
        with torch.inference_mode():
            logits = model(torch.tensor([[*begin, *ids]])).logits[0, len(begin) - 1 : -1].double()
        total = 0.0
        for place, token in enumerate(ids):
            allowed = sorted({other[place] for other in written if other[:place] == ids[:place]})
            total += float(logits[place, allowed].log_softmax(-1)[allowed.index(token)])
        found.append(total)
    return found


def test_all_outputs_at_once_have_the_shares_that_they_have_one_by_one(base: BaseModel, generator: Generator) -> None:
    found = shares(generator, OUTPUTS)
    assert found == pytest.approx(one_by_one(base, OUTPUTS), abs=1e-4)
    assert sum(map(math.exp, found)) == pytest.approx(1)


def test_the_layers_of_transformers_give_the_same_shares(base: BaseModel, generator: Generator) -> None:
    plain = Generator.of(load_model(base).eval(), load_tokenizer(base))
    assert shares(plain, OUTPUTS) == pytest.approx(shares(generator, OUTPUTS), abs=1e-4)


def test_shares_follow_their_outputs_in_any_order_and_company(generator: Generator) -> None:
    found = shares(generator, OUTPUTS)
    assert shares(generator, OUTPUTS[::-1]) == pytest.approx(found[::-1], abs=1e-5)
    pair = shares(generator, [OUTPUTS[1], OUTPUTS[4], OUTPUTS[1]])
    assert pair[0] - pair[1] == pytest.approx(found[1] - found[4], abs=1e-4)
    assert pair[0] == pair[2]


def test_an_output_without_alternative_is_certain(generator: Generator) -> None:
    assert shares(generator, OUTPUTS[:1]) == [0.0]
    assert shares(generator, []) == []


def test_the_tree_reads_what_outputs_share_once_and_nothing_after_their_last_fork() -> None:
    tree = TokenTree()
    ends = [tree.add(tokens) for tokens in ([1, 2, 3, 4, 5], [1, 2, 6, 7], [1, 2, 3, 8])]
    assert len(tree.tokens) == 1 + 8
    assert [tree.tokens[node] for node in tree.forks] == [2, 3]
    assert [tree.tokens[node] for node in tree.path(ends[2])] == [1, 2, 3, 8]


def test_outputs_beyond_the_context_are_refused(generator: Generator) -> None:
    assert generator.context is not None
    with pytest.raises(RecordTooLongError, match=f"context {generator.context}"):
        log_shares(generator, [5] * generator.context, OUTPUTS)


# As generation uses it

TEXTS = (
    "Aspirin caused nausea.",
    "Enalapril and aspirin, then fever.",
    "We saw no harm.",
    "Codeine with aspirin: rash, fever.",
)


@pytest.mark.parametrize("mode", ["pairs", "both"])
def test_pairs_are_judged_alike_batched_and_one_by_one(base: BaseModel, generator: Generator, mode: str) -> None:
    thresholds = dict.fromkeys(("causes", "treats", "associated_with", "interacts_with"), -2.0)
    task = ExtractionTask().with_calibrator({"pairs": {"mode": mode, "thresholds": thresholds}})
    instruction = task.instruction("biored")
    prompts = [render_prompt(instruction, text) for text in TEXTS]
    grammars = [task.grammar(instruction, text) for text in TEXTS]
    batched = generate(base, None, prompts, batch_size=4, max_new_tokens=160, grammars=grammars, loaded=generator)
    alone = [
        generate(base, None, [prompt], batch_size=1, max_new_tokens=160, grammars=[grammar], loaded=generator)[0]
        for prompt, grammar in zip(prompts, grammars, strict=True)
    ]
    assert [output.text for output in batched] == [output.text for output in alone]
    assert any(output.weighed for output in batched)
    for prompt, grammar, one, other in zip(prompts, grammars, batched, alone, strict=True):
        assert [line for line, _ in one.weighed] == [line for line, _ in other.weighed]
        assert [score for _, score in one.weighed] == pytest.approx([s for _, s in other.weighed], abs=1e-3)
        accepted = {line for line, score in one.weighed if score >= -2}
        lines = {f"{r.head} --[{r.type}]--> {r.tail}" for r in parse(one.text).extraction.relations}
        assert lines == accepted if mode == "pairs" else lines >= accepted
        # what was read while the output was written is worth what it is when it is read again
        shares_again = log_shares(generator, prompt_ids(generator.tokenizer, prompt), grammar.alternatives(one.text))
        again = grammar.judged(one.text, one.lines, shares_again).weighed
        assert [score for _, score in one.weighed] == pytest.approx([score for _, score in again], abs=1e-3)
