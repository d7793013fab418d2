"""The bias of ending a list, on a tiny model with random weights and on the choices themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from odin_slm.core.record import render_prompt
from odin_slm.inference.decoding.constraint import Constraint, Vocabulary
from odin_slm.inference.generation import Generation, Generator, generate
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.models.tokens import completion_ids
from odin_slm.tasks.extraction.format import instruction_for, parse
from odin_slm.tasks.extraction.grammar import ExtractionGrammar
from odin_slm.tasks.extraction.schema import MEDICAL, SCHEMAS, Schema
from odin_slm.tasks.grammar import Ending

ADE = instruction_for(SCHEMAS["ade"])
TEXTS = [
    "Aspirin caused nausea.",
    "A patient on enalapril (10 mg/day) and aspirin developed acute renal failure, then fever; both were stopped.",
    "We saw no harm.",
    "Naproxen, codeine and digoxin were given; rash, cough and fever followed within a week of the second dose.",
]
PROMPTS = [render_prompt(ADE, text) for text in TEXTS]
TEXT = "Aspirin caused nausea."
LISTED = "### Entities:\n1. [Drug] Aspirin"
BOTH = f"{LISTED}\n2. [Symptom] nausea\n\n### Relations:\n"
TRIPLE = f"{BOTH}1. Aspirin --[causes]--> nausea"


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


@pytest.fixture(scope="module")
def generator(base: BaseModel) -> Generator:
    return Generator(base)


def tokenizer_of(texts: list[str]) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=400, min_frequency=1, special_tokens=["<|endoftext|>", "<|pad|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>", model_max_length=1024
    )


BLANK = [TRIPLE, "None", *["\n\n"] * 9]


@pytest.fixture(scope="module", params=[BLANK, [TRIPLE, "None"]], ids=["blank line", "line break"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """With one token for a blank line, and without."""
    return tokenizer_of(request.param)


def write(generator: Generator, bias: tuple[float, float] | None, **options: Any) -> list[Generation]:
    grammars = [ExtractionGrammar(text, SCHEMAS["ade"], MEDICAL, bias) for text in TEXTS]
    options = {"batch_size": 4, "max_new_tokens": 160, **options}
    base = BaseModel("tiny", Path("nowhere"))
    return generate(base, None, PROMPTS, grammars=grammars, loaded=generator, **options)


def lists(output: Generation) -> tuple[list[Any], list[Any]]:
    found = parse(output.text).extraction
    return list(found.entities), list(found.relations)


def test_with_bias_0_outputs_are_the_same(generator: Generator) -> None:
    plain, zero = write(generator, None), write(generator, (0.0, 0.0))
    assert [(g.text, g.tokens, g.finished) for g in zero] == [(g.text, g.tokens, g.finished) for g in plain]
    assert all(g.ends == () for g in plain)
    assert all(len(g.ends) == len(g.lines) == g.text.count("\n") + 1 for g in zero)
    for one, other in zip(plain, zero, strict=True):
        # what going on costs moves from a line to the next; only what ending costs is no line's any more
        assert sum(filter(None, other.lines)) >= sum(filter(None, one.lines)) - 1e-4


def test_a_batch_and_single_rows_are_biased_alike(base: BaseModel, generator: Generator) -> None:
    together, single = write(generator, (-1.0, 1.0)), write(generator, (-1.0, 1.0), batch_size=1)
    assert [g.text for g in together] == [g.text for g in single]
    layers = Generator.of(load_model(base).eval(), load_tokenizer(base))
    assert [g.text for g in write(layers, (-1.0, 1.0))] == [g.text for g in single], "not fused"


def test_a_list_that_is_biased_more_is_the_begin_of_one_that_is_biased_less(generator: Generator) -> None:
    longest = write(generator, (-3.0, 0.0))
    lengths = set()
    for bias in (-2.0, -1.0, 0.0, 1.0, 3.0):
        for output, whole in zip(write(generator, (bias, 0.0)), longest, strict=True):
            entities, all_entities = lists(output)[0], lists(whole)[0]
            kept = 0
            while kept < len(all_entities) and (whole.ends[kept] or 0.0) + bias <= 0:  # line 0 is the header
                kept += 1
            assert entities == all_entities[:kept], (bias, whole.text)
            lengths.add((bias, len(entities)))
    assert len({length for _, length in lengths}) > 2, "the biases make a difference here"


def test_the_two_lists_have_biases_of_their_own(generator: Generator) -> None:
    none = write(generator, (50.0, 50.0))
    assert all(lists(output) == ([], []) for output in none)
    entities, relations = zip(*map(lists, write(generator, (-1.0, 50.0))), strict=True)
    assert any(entities)
    assert not any(relations)


def weighed(tokenizer: Any, written: str, scores: dict[str, float], bias: float) -> tuple[str, float, Constraint]:
    """Return what is written after a text, given the logits of some tokens by their text; '' is the end."""
    vocabulary = Vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    constraint = Constraint(
        vocabulary, ExtractionGrammar(TEXT, Schema(("Drug", "Symptom"), ("causes",)), MEDICAL, (bias, bias))
    )
    for token in completion_ids(tokenizer, written)[:-1]:
        constraint.consume(token)
    logits = torch.full((1, len(tokenizer)), -math.inf)
    allowed = vocabulary.allowed([constraint]).wide()[0]
    for text, score in scores.items():
        (token,) = [tokenizer.eos_token_id] if not text else tokenizer(text, add_special_tokens=False)["input_ids"]
        assert allowed[token], text
        logits[0, token] = score
    best = int(logits[0].argmax())
    chance = float(logits[0].max() - logits[0].logsumexp(-1))
    token, said = constraint.weigh(best, chance, logits[0], None)
    return "" if token == tokenizer.eos_token_id else tokenizer.decode([token]), said, constraint


@pytest.mark.parametrize(
    ("written", "end", "on"),
    [("### Entities:\n", "None", "1"), (BOTH, "None", "1"), (TRIPLE, "", "\n")],
    ids=["no entities", "no relations", "last relation"],
)
def test_the_bias_decides_where_a_list_may_end(tokenizer: Any, written: str, end: str, on: str) -> None:
    end = end and tokenizer.decode(tokenizer(end)["input_ids"][:1])
    for bias, expected in ((0.0, end), (-0.9, end), (-1.1, on)):
        assert weighed(tokenizer, written, {end: 3.0, on: 2.0}, bias)[0] == expected
    for bias, expected in ((0.0, on), (0.9, on), (1.1, end)):
        token, _, constraint = weighed(tokenizer, written, {end: 2.0, on: 3.0}, bias)
        assert token == expected
        assert constraint.list_ends is not None
        assert constraint.list_ends.odds(written.count("\n") + 1)[written.rstrip("\n").count("\n")] == -1.0


def test_a_list_of_entities_ends_by_a_blank_line_whatever_the_tokens(tokenizer: Any) -> None:
    whole = len(tokenizer("\n\n")["input_ids"]) == 1
    written, end, on = (LISTED, "\n\n", "\n") if whole else (f"{LISTED}\n", "\n", "2")
    assert weighed(tokenizer, written, {end: 3.0, on: 2.0}, -0.9)[0] == end
    assert weighed(tokenizer, written, {end: 3.0, on: 2.0}, -1.1)[0] == on
    if not whole:
        assert weighed(tokenizer, LISTED, {"\n": 3.0, " ": 2.0}, 50.0)[0] == "\n", "nothing is decided here"


def test_what_going_on_costs_counts_for_the_line_that_it_begins() -> None:
    tokenizer = tokenizer_of(BLANK)
    token, chance, constraint = weighed(tokenizer, LISTED, {"\n\n": 3.0, "\n": 2.0}, -1.1)
    assert (token, chance) == ("\n", pytest.approx(0.0, abs=1e-6)), "the line has ended, whatever follows"
    (newline,) = tokenizer("\n")["input_ids"]
    constraint.consume(newline)
    (two,) = tokenizer("2")["input_ids"]
    logits = torch.full((len(tokenizer),), -math.inf)
    logits[two] = 1.0
    assert constraint.weigh(two, 0.0, logits, None) == (two, pytest.approx(2.0 - math.log(math.e**3 + math.e**2)))


def test_a_name_that_goes_on_is_not_biased() -> None:
    tokenizer = tokenizer_of(BLANK)
    for bias in (-50.0, 50.0):
        token, chance, _ = weighed(tokenizer, LISTED, {" ": 4.0, "\n\n": 3.0, "\n": 2.0}, bias)
        assert token == " "
        assert chance == pytest.approx(4.0 - math.log(sum(math.e**score for score in (4, 3, 2))), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("### Entities:\n", Ending("None", -1.0)),
        (LISTED, Ending("\n\n", -1.0)),
        (f"{LISTED}\n", Ending("\n", -1.0)),
        ("### Entities:\nNone", None),
        (f"{LISTED}\n\n", None),
        (f"{LISTED}\n\n### Relations:", None),
        (BOTH, Ending("None", 2.0)),
        (TRIPLE, Ending("", 2.0)),
        (f"{TRIPLE}\n", None),
        (f"{BOTH}None", None),
        ("### Ent", None),
    ],
)
def test_a_grammar_says_where_its_lists_may_end(text: str, ending: Ending | None) -> None:
    assert ExtractionGrammar(TEXT, MEDICAL.everything, MEDICAL, (-1.0, 2.0)).ending(text) == ending
    assert ExtractionGrammar(TEXT).ending(text) is None
