"""What is asked of vLLM and made of its answers, against a reference that decodes token by token. No GPU, no vLLM."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from extraction_values import grammar
from odin_slm.core.errors import AdapterError, BackendError
from odin_slm.core.record import render_prompt
from odin_slm.inference.decoding.constraint import Vocabulary
from odin_slm.inference.generation import Generation, generate, prompt_rows
from odin_slm.inference.vllm import Answer, Output, Request, _rank, answer_of, write
from odin_slm.inference.vllm import generate as generate_by_vllm
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer, resolve_base_model
from odin_slm.tasks.extraction.format import instruction_for
from odin_slm.tasks.extraction.grammar import ExtractionGrammar
from odin_slm.tasks.extraction.schema import SCHEMAS
from odin_slm.tasks.extraction.task import ExtractionTask

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTION = instruction_for(SCHEMAS["synthetic"])
TEXTS = [
    "Aspirin caused nausea.",
    "A patient on enalapril (10 mg/day) and aspirin developed acute renal failure, then fever; both were stopped.",
    "We saw no harm.",
]
PROMPTS = [render_prompt(INSTRUCTION, text) for text in TEXTS]
GRAMMARS = [grammar(INSTRUCTION, text) for text in TEXTS]


class Reference:
    """Answers requests as vLLM's backend "guidance" does: greedily, the mask from ``llguidance.grammar_from``."""

    def __init__(self, base: BaseModel) -> None:
        self.model, self.tokenizer = load_model(base), load_tokenizer(base)
        self.end = self.tokenizer.eos_token_id
        self.vocabulary = Vocabulary(self.tokenizer, self.model.config.vocab_size, [self.end])
        self.asked: list[Request] = []

    def __call__(self, requests: list[Request]) -> list[Answer]:
        self.asked += requests
        return [self.answer(request) for request in requests]

    def answer(self, request: Request) -> Answer:
        import torch
        from llguidance import LLMatcher, grammar_from
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        options = request.sampling()
        assert options["temperature"] == 0
        matcher = None
        if "structured_outputs" in options:
            spec = grammar_from("grammar", options["structured_outputs"]["grammar"])
            assert not LLMatcher.validate_grammar(spec, self.vocabulary.tokens)
            matcher = LLMatcher(self.vocabulary.tokens, spec)
        written, chances = [], []
        mask = allocate_token_bitmask(1, self.vocabulary.tokens.vocab_size)
        ids, cache = torch.tensor([request.prompt()["prompt_token_ids"]]), None
        while len(written) < options["max_tokens"]:
            with torch.no_grad():
                output = self.model(ids, past_key_values=cache, use_cache=True)
            logits, cache = output.logits[0, -1], output.past_key_values
            if matcher:
                fill_next_token_bitmask(matcher, mask)
                bits = numpy.unpackbits(mask.view(numpy.uint8), bitorder="little", count=len(logits)).view(bool)
                logits[~torch.from_numpy(bits)] = -torch.inf
            token = int(logits.argmax())
            chances.append(float(logits.log_softmax(-1)[token]))
            if token == self.end:
                return Answer(tuple(written), tuple(chances), True)
            if matcher:
                assert matcher.consume_token(token)
            written.append(token)
            ids = torch.tensor([[token]])
        return Answer(tuple(written), tuple(chances), False)


def outputs(tokenizer: Any, limit: int) -> list[Output]:
    rows = prompt_rows(tokenizer, 1024, PROMPTS, None, limit)
    return [Output(row.index, tuple(row.prompt), row.limit) for row in rows]


def assert_equal(one: Generation, other: Generation) -> None:
    assert (one.text, one.finished, one.tokens) == (other.text, other.finished, other.tokens)
    assert one.lines == pytest.approx(other.lines, abs=1e-3)


@pytest.fixture(scope="module")
def embedded() -> BaseModel:
    return resolve_base_model("data/06_models/odin-nano", root=ROOT)


@pytest.mark.parametrize("limit", [9, 60])
@pytest.mark.parametrize("grammars", [[None] * 3, GRAMMARS], ids=["free", "constrained"])
def test_two_requests_give_what_our_own_decoding_gives(
    embedded: BaseModel, grammars: list[ExtractionGrammar | None], limit: int
) -> None:
    reference = Reference(embedded)
    found = write(outputs(reference.tokenizer, limit), grammars, reference, reference.tokenizer)
    own = generate(embedded, None, PROMPTS, batch_size=8, max_new_tokens=limit, grammars=grammars)
    for one, other in zip(found, own, strict=True):
        assert_equal(one, other)
    if limit == 60:
        assert any("1. [" in output.text for output in found)


def test_the_second_request_continues_the_first_and_names_the_listed_entities(embedded: BaseModel) -> None:
    reference = Reference(embedded)
    write(outputs(reference.tokenizer, 60), GRAMMARS, reference, reference.tokenizer)
    first, second = reference.asked[:3], reference.asked[3:]
    assert [request.lark for request in first] == [grammar.lark() for grammar in GRAMMARS]
    assert len(second) == 3
    for one, two in zip(first, second, strict=True):
        assert two.tokens[: len(one.tokens)] == one.tokens
        assert reference.tokenizer.decode(two.tokens).endswith("\n### Relations:\n")
        assert two.limit == one.limit - (len(two.tokens) - len(one.tokens))
        assert "substring_chunks" in (one.lark or "")
        assert "substring_chunks" not in (two.lark or "")


def test_a_line_said_for_the_third_time_ends_the_entities_and_the_relations(embedded: BaseModel) -> None:
    tokenizer = load_tokenizer(embedded)
    circle = "### Entities:\n" + "".join(f"{n}. [Drug] Aspirin\n" for n in range(1, 6))
    related = "".join(f"{n}. Aspirin --[causes]--> nausea\n" for n in range(1, 5))
    asked: list[Request] = []

    def complete(requests: list[Request]) -> list[Answer]:
        said = related if asked else circle
        asked.extend(requests)
        ids = tokenizer(said, add_special_tokens=False)["input_ids"]
        return [Answer(tuple(ids), (-0.5,) * len(ids), False)]

    [found] = write(outputs(tokenizer, 200)[:1], GRAMMARS, complete, tokenizer)
    assert tokenizer.decode(asked[1].tokens).endswith("3. [Drug] Aspirin\n\n### Relations:\n")
    assert found.text.count("[Drug] Aspirin") == found.text.count("causes") == 3
    assert found.finished
    heading = found.text.split("\n").index("### Relations:")
    assert found.lines[heading] == 0, "the heading was not the model's choice"


def test_free_requests_carry_no_grammar_and_no_penalty() -> None:
    options = Request((1, 2), 7, None).sampling()
    assert options == {"temperature": 0.0, "max_tokens": 7, "logprobs": 0, "detokenize": False}
    assert Request((1, 2), 7, None).prompt() == {"prompt_token_ids": [1, 2]}


def test_an_answer_of_vllm_is_read() -> None:
    def entries(token: int, value: float) -> dict[int, Any]:
        return {token: SimpleNamespace(logprob=value, rank=1, decoded_token=None)}

    logprobs = [entries(5, -0.1), entries(6, -0.2), entries(2, -0.3)]
    ended = SimpleNamespace(token_ids=[5, 6, 2], logprobs=logprobs, finish_reason="stop")
    cut = SimpleNamespace(token_ids=(5, 6), logprobs=logprobs[:2], finish_reason="length")
    assert answer_of(ended) == Answer((5, 6), (-0.1, -0.2, -0.3), True)
    assert answer_of(cut) == Answer((5, 6), (-0.1, -0.2), False)


@pytest.mark.parametrize(("rank", "allowed"), [(4, 8), (16, 16), (33, 64)])
def test_vllm_is_set_up_for_the_next_rank_it_knows(tmp_path: Path, rank: int, allowed: int) -> None:
    (tmp_path / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "r": {rank}}}')
    assert _rank(tmp_path) == allowed
    with pytest.raises(AdapterError, match="not the configuration of an adapter"):
        _rank(tmp_path / "nothing")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_message_says_how_to_get_it(embedded: BaseModel) -> None:
    with pytest.raises(BackendError, match=r'evaluation\.backend.*pip install -e "\.\[vllm\]"'):
        generate_by_vllm(embedded, None, PROMPTS, batch_size=8, max_new_tokens=9)


def test_vllm_refuses_to_judge_pairs(embedded: BaseModel) -> None:
    task = ExtractionTask().with_calibrator({"pairs": {"mode": "both", "thresholds": {}}})
    grammars = [task.grammar(task.instruction("biored"), "Aspirin caused nausea.") for _ in PROMPTS]
    with pytest.raises(BackendError, match=r"does not judge pairs.*backend=transformers"):
        generate_by_vllm(embedded, None, PROMPTS, batch_size=8, max_new_tokens=9, grammars=grammars)
