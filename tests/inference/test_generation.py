"""Generation and its grammar, on a tiny model with random weights."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from conftest import ROOT
from extraction_values import grammar
from odin_slm.core.errors import AdapterError, GrammarError, RecordTooLongError
from odin_slm.core.record import render_prompt
from odin_slm.inference.decoding.constraint import Constraint, Vocabulary, next_phase
from odin_slm.inference.generation import Generator, generate, line_scores, progress
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.models.tokens import completion_ids, line_break_counter, prompt_ids
from odin_slm.tasks.extraction.format import Entity, Extraction, RelationTriple, instruction_for, parse, render
from odin_slm.tasks.extraction.grammar import ExtractionGrammar
from odin_slm.tasks.extraction.schema import MEDICAL, SCHEMAS

ADE = instruction_for(SCHEMAS["ade"])
SYNTHETIC = instruction_for(SCHEMAS["synthetic"])
TEXTS = [
    "Aspirin caused nausea.",
    "A patient on enalapril (10 mg/day) and aspirin developed acute renal failure, then fever; both were stopped.",
    "5'-fluorouracil/leucovorin [5-FU] against α-fetoprotein–positive tumours: “toxicity” — Ca2+ fell to 1.5 mM 😀.",
    "We saw no harm.",
    "A tab\there, a break\nthere, a back\\slash and an arrow --[causes]--> in one text about naproxen.",
]
PROMPTS = [render_prompt(SYNTHETIC, text) for text in TEXTS]
GRAMMARS = [grammar(SYNTHETIC, text) for text in TEXTS]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


@pytest.fixture(scope="module")
def adapter(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapter") / "own")


@pytest.fixture(scope="module")
def vocabulary(base: BaseModel) -> Vocabulary:
    tokenizer = load_tokenizer(base)
    return Vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])


def make_adapter(base: BaseModel, folder: Path, alpha: int = 64) -> Path:
    """An adapter that changes what the base writes, with a small alpha hardly."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    modules = ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=modules, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(load_model(base), config).save_pretrained(folder)
    return folder


def write(base: BaseModel, adapter: Path | None = None, **options: Any) -> list[tuple[str, bool, int]]:
    options = {"batch_size": 8, "max_new_tokens": 40, **options}
    prompts = options.pop("prompts", PROMPTS)
    return [(g.text, g.finished, g.tokens) for g in generate(base, adapter, prompts, **options)]


# What is written


def test_rows_that_join_a_batch_get_what_they_would_get_alone(base: BaseModel) -> None:
    generator = Generator(base)
    alone = [text for text, *_ in write(base, grammars=GRAMMARS)]
    rows = generator.rows(PROMPTS, max_new_tokens=40, grammars=GRAMMARS)
    for late in ((4, 3, 2, 1), (1, 2, 3, 4)):  # the longest prompts into a batch of short ones, and the other way
        waiting, steps, texts = [rows[place] for place in late], 0, {}
        first = next(place for place in range(5) if place not in late)

        def more(active: int, waiting: list = waiting) -> list:
            nonlocal steps
            steps += 1
            joining = [waiting.pop(0)] if waiting and (steps % 7 == 0 or not active) else []
            generator.prepare(joining)
            return joining

        generator.write([rows[first]], lambda output, texts=texts: texts.update({output.index: output.text}), more)
        assert [texts[place] for place in range(5)] == alone


@pytest.mark.parametrize("grammars", [None, GRAMMARS], ids=["free", "constrained"])
def test_a_batch_writes_what_single_prompts_get(base: BaseModel, grammars: list[ExtractionGrammar] | None) -> None:
    together = write(base, grammars=grammars, batch_size=5)
    assert write(base, grammars=grammars, batch_size=1) == together
    assert write(base, grammars=grammars, batch_size=2) == together


def test_free_and_constrained_in_one_call_are_the_same_as_in_two(base: BaseModel) -> None:
    both = write(base, prompts=PROMPTS * 2, grammars=[*GRAMMARS, *[None] * len(PROMPTS)], batch_size=4)
    assert both == write(base, grammars=GRAMMARS) + write(base)


def test_an_instruction_is_read_once_and_changes_nothing(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from odin_slm.inference import generation

    original = generation._forward
    read: list[tuple[int, ...]] = []

    def watched(model: Any, ids: torch.Tensor, *args: Any) -> torch.Tensor:
        read.extend([tuple(ids.shape)] if ids.shape[1] > 1 else [])
        return original(model, ids, *args)

    monkeypatch.setattr(generation, "_forward", watched)
    generator = Generator(base)
    plain = [row.prompt for row in generator.rows(PROMPTS, max_new_tokens=1)]
    [shared] = {row.instruction for row in generator.rows(PROMPTS, max_new_tokens=1)}
    assert generator.tokenizer.decode(plain[0][:shared]) == f"### Instruction:\n{SYNTHETIC}\n\n### Input:\n"

    def asked(prompts: Sequence[str]) -> list[Any]:
        outputs: list[Any] = []
        generator.write(generator.rows(prompts, max_new_tokens=6), outputs.append)
        return sorted(outputs, key=lambda output: output.index)

    for _ in range(2):
        together = asked([*PROMPTS, PROMPTS[0]])
    rest = (len(PROMPTS), max(map(len, plain)) - shared)
    assert read == [(1, shared), rest, rest], "the equal prompts are one row; the second time nothing is read again"

    monkeypatch.setattr(generation, "_WORTH_KEEPING", 10**6)
    for output, prompt in zip(together, [*PROMPTS, PROMPTS[0]], strict=True):
        [alone] = asked([prompt])
        assert (output.text, output.tokens) == (alone.text, alone.tokens)
        assert output.lines == pytest.approx(alone.lines, abs=1e-3)


@pytest.mark.parametrize("narrow", [True, False])
def test_a_batch_of_a_narrow_model_is_one_threads(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch, narrow: bool
) -> None:
    import torch

    from odin_slm.inference import generation

    used: set[int] = set()
    forward = generation._forward

    def watched(*arguments: Any) -> Any:
        used.add(torch.get_num_threads())
        return forward(*arguments)

    monkeypatch.setattr(generation, "_forward", watched)
    monkeypatch.setattr(generation, "_NARROW", 32 if narrow else 31)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        generate(base, None, PROMPTS[:1], batch_size=4, max_new_tokens=3)
        assert used == {1 if narrow else 2}
        assert torch.get_num_threads() == 2, "what comes later has all of them again"
    finally:
        torch.set_num_threads(before)


def test_waiting_rows_take_the_places_of_those_that_end(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from odin_slm.inference import generation

    original = generation._forward
    steps: list[int] = []

    def watched(model: Any, ids: torch.Tensor, *args: Any) -> torch.Tensor:
        steps.extend([len(ids)] if ids.shape[1] == 1 else [])
        return original(model, ids, *args)

    monkeypatch.setattr(generation, "_forward", watched)
    generator, before = Generator(base), torch.get_num_threads()

    def asked(queue: int) -> tuple[list[tuple[str, int]], list[int]]:
        monkeypatch.setattr(generation, "_QUEUE", queue)
        steps.clear()
        rows = generator.rows(PROMPTS * 7, max_new_tokens=60, grammars=GRAMMARS * 7)
        for row in rows:
            row.limit = 3 + 7 * row.index % 50  # random weights would all write to the end of one budget
        outputs: list[Any] = []
        generator.write_all(rows, outputs.append, 4)
        assert max(steps) <= 4
        outputs.sort(key=lambda output: output.index)
        return [(output.text, output.tokens) for output in outputs], list(steps)

    torch.set_num_threads(2)
    try:
        alone, filled = asked(1), asked(8)
    finally:
        torch.set_num_threads(before)
    assert len(filled[0]) == 35
    assert filled[0] == alone[0]
    assert len(filled[1]) < len(alone[1]), "fewer steps, of more rows each"


def test_queues_hold_every_batch_once_and_are_as_many_for_every_core() -> None:
    from odin_slm.inference.generation import _queues

    for count in range(1, 70):
        batches: Any = [[number] for number in range(count)]
        for cores in (1, 2, 3):
            queues = _queues(batches, min(cores, count))
            assert sorted(row for queue in queues for row in queue) == list(range(count))
            assert all(queue == sorted(queue) and len(queue) <= 4 for queue in queues)
            assert len(queues) % min(cores, count) == 0 or len(queues) == count
        assert len(_queues(batches, 1)) >= min(count, 8), "whatever cores there are have work"


@pytest.mark.parametrize("mixed", [False, True], ids=["held", "mixed"])
def test_few_logits_choose_as_all_do(base: BaseModel, monkeypatch: pytest.MonkeyPatch, mixed: bool) -> None:
    grammars = [None, *GRAMMARS[1:]] if mixed else GRAMMARS
    outputs = []
    for share in (1, 10**6):  # nearly always, never
        monkeypatch.setattr("odin_slm.inference.decoding.constraint._FEW", share)
        outputs.append(generate(base, None, PROMPTS, batch_size=8, max_new_tokens=120, grammars=grammars))
    for few, all_ in zip(*outputs, strict=True):
        assert (few.text, few.tokens, few.finished) == (all_.text, all_.tokens, all_.finished)
        assert few.lines == pytest.approx(all_.lines, abs=1e-4)


def test_what_few_tokens_say_is_what_the_whole_vocabulary_says(vocabulary: Vocabulary) -> None:
    constraints = [Constraint(vocabulary, grammar) for grammar in GRAMMARS[:3]]
    constraints[1].consume(next(iter(numpy.flatnonzero(vocabulary.allowed([constraints[1]]).wide()[0]).tolist())))
    allowed = vocabulary.allowed(constraints)
    wide = allowed.wide()
    assert allowed.tokens.tolist() == numpy.flatnonzero(wide.any(0)).tolist()
    assert (allowed.narrow() == wide[:, allowed.tokens]).all()


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "as in transformers"])
@pytest.mark.parametrize("bias", [None, (-2.0, 1.5)], ids=["plain", "biased"])
def test_forced_tokens_are_not_asked_and_change_nothing(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch, fused: bool, bias: tuple[float, float] | None
) -> None:
    from odin_slm.inference import generation

    steps: list[int] = []
    choose = generation._choose
    monkeypatch.setattr(generation, "_choose", lambda *given: steps.append(len(given[2])) or choose(*given))
    if not fused:
        monkeypatch.setattr("odin_slm.inference.decoding.fused_llama.fuse", lambda model: model)
    biased = [ExtractionGrammar(g.text, g.schema, end_bias=bias) for g in GRAMMARS]
    asked = {"batch_size": 3, "max_new_tokens": 90, "grammars": [*biased, None], "loaded": Generator(base)}
    outputs, counts = [], []
    for ahead in (True, False):
        if not ahead:
            monkeypatch.setattr(Constraint, "forced", lambda self: None)
        steps.clear()
        outputs.append(generate(base, None, [*PROMPTS, PROMPTS[0]], **asked))
        counts.append(sum(steps))
    for ours, asked_for in zip(*outputs, strict=True):
        assert (ours.text, ours.tokens, ours.finished) == (asked_for.text, asked_for.tokens, asked_for.finished)
        assert ours.lines == pytest.approx(asked_for.lines, abs=1e-4)
        assert ours.ends == pytest.approx(asked_for.ends, abs=1e-3)
    assert counts[0] < counts[1], "rows for which the model was asked"


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "as in transformers"])
def test_a_draft_changes_nothing_of_what_is_written(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    from odin_slm.inference import generation

    if not fused:
        monkeypatch.setattr("odin_slm.inference.decoding.fused_llama.fuse", lambda model: model)
    tagging = [ExtractionGrammar(g.text, g.schema, form="inline") for g in GRAMMARS]
    grammars = [*tagging, None, GRAMMARS[1]]  # some rows have none
    asked = {"batch_size": 3, "max_new_tokens": 200, "grammars": grammars, "loaded": Generator(base)}
    taken: list[int] = []
    write_on = generation._write_on

    def counted(model: Any, states: Any, rows: Any, drafts: Any, *rest: Any) -> Any:
        unread, refused = write_on(model, states, rows, drafts, *rest)
        taken.extend(len(draft) - count for draft, count in zip(drafts, refused, strict=True))
        return unread, refused

    lengths = [generation._longest_draft(rows, asked["loaded"]._at_once) for rows in (1, 12, 36, 500)]
    assert lengths == [8, 8, 2, 0]  # the more rows, the shorter their drafts
    assert generation._longest_draft(500, None) == 8  # on a GPU
    monkeypatch.setattr(generation, "_write_on", counted)
    outputs = []
    for most in (0, 3, 8):
        monkeypatch.setattr(generation, "_DRAFT", most)
        taken.clear()
        outputs.append(generate(base, None, [*PROMPTS, PROMPTS[0], PROMPTS[1]], **asked))
        assert (max(taken) > 0) is (most > 0)
        assert min(taken) == 0
    for plain, *drafted in zip(*outputs, strict=True):
        for other in drafted:
            assert (other.text, other.tokens, other.finished) == (plain.text, plain.tokens, plain.finished)
            assert other.lines == pytest.approx(plain.lines, abs=1e-4)


def test_a_window_of_attention_is_not_widened_by_unused_columns(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from odin_slm.inference import generation

    widths: set[int] = set()
    padded = generation._padded
    monkeypatch.setattr(generation, "_padded", lambda unread, at: widths.update(map(len, unread)) or padded(unread, at))
    generator = Generator(base)
    for window in (None, 64):
        monkeypatch.setattr(generator.model.config, "sliding_window", window, raising=False)
        widths.clear()
        generate(base, None, PROMPTS, batch_size=8, max_new_tokens=60, grammars=GRAMMARS, loaded=generator)
        assert (max(widths) > 1) is (window is None)


def test_prompts_of_several_instructions_share_a_batch(base: BaseModel) -> None:
    prompts = [render_prompt(instruction, text) for text in TEXTS[:3] for instruction in (ADE, SYNTHETIC)]
    prompts.append("No Alpaca prompt at all.")
    assert write(base, prompts=prompts, batch_size=7) == write(base, prompts=prompts, batch_size=1)


def test_only_some_instructions_are_remembered(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odin_slm.inference.generation._KEPT_INSTRUCTIONS", 2)
    generator = Generator(base)
    for number in range(5):
        prompt = render_prompt(f"Extract everything of kind {number}, please, and nothing else.", TEXTS[0])
        generator.write(generator.rows([prompt], max_new_tokens=1), lambda _: None)
    assert len(generator._instructions) == 2


@pytest.mark.parametrize("with_adapter", [False, True])
def test_free_output_is_the_greedy_one_of_the_library(base: BaseModel, adapter: Path, with_adapter: bool) -> None:
    import torch
    from peft import PeftModel

    model, tokenizer = load_model(base), load_tokenizer(base)
    if with_adapter:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt_ids(tokenizer, prompt)])
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        expected.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    assert [text for text, _, _ in write(base, adapter if with_adapter else None)] == expected


def test_the_adapter_changes_what_is_written(base: BaseModel, adapter: Path) -> None:
    assert write(base, adapter) != write(base)


def test_an_output_that_the_budget_cuts_is_not_finished(base: BaseModel) -> None:
    whole = write(base, max_new_tokens=40)
    cut = write(base, max_new_tokens=3)
    assert cut == [(cut_text, False, 3) for cut_text, _, _ in cut]
    assert all(long[0].startswith(short[0].rstrip("�")) for long, short in zip(whole, cut, strict=True))


def test_the_end_token_ends_an_output_and_is_no_part_of_it(base: BaseModel) -> None:
    nothing = ExtractionGrammar("  ")  # a text without words: only one output is possible
    text = "### Entities:\nNone\n\n### Relations:\nNone"
    tokens = len(completion_ids(load_tokenizer(base), text)) - 1
    [(output, finished, count)] = write(base, prompts=PROMPTS[:1], grammars=[nothing], max_new_tokens=400)
    assert (output, finished) == (text, True)
    assert count >= tokens


@pytest.mark.parametrize("grammars", [None, GRAMMARS], ids=["free", "constrained"])
def test_lines_carry_the_log_probability_of_their_tokens(
    base: BaseModel, grammars: list[ExtractionGrammar] | None
) -> None:
    """Against one forward pass over prompt and output."""
    import torch

    model, tokenizer = load_model(base), load_tokenizer(base)
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size, [tokenizer.eos_token_id])
    asked = {"batch_size": 8, "max_new_tokens": 120, "grammars": grammars}
    for index, output in enumerate(generate(base, None, PROMPTS[:2], **asked)):
        assert len(output.lines) == output.text.count("\n") + 1
        if not output.finished:
            continue
        prompt, written = prompt_ids(tokenizer, PROMPTS[index]), completion_ids(tokenizer, output.text)
        if len(written) - 1 != output.tokens:
            continue  # the model cut the same text into other tokens
        logits = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1].detach()
        constraint = Constraint(vocabulary, grammars[index]) if grammars else None
        expected = [0.0]
        for token, row in zip(written, logits, strict=True):
            if constraint:
                row[~torch.from_numpy(vocabulary.allowed([constraint]).wide()[0])] = -torch.inf
            expected[-1] += float(row.log_softmax(-1)[token])
            if constraint and token != written[-1]:
                constraint.consume(token)
            expected += [0.0] * tokenizer.decode([token]).count("\n")
        assert output.lines == pytest.approx(expected[: len(output.lines)], abs=1e-3)


def test_line_scores_add_up_tokens_where_they_begin(base: BaseModel) -> None:
    tokenizer = load_tokenizer(base)
    text = "### Entities:\n1. [Drug] aspirin\n\n### Relations:\nNone"
    ids = completion_ids(tokenizer, text)[:-1]
    breaks = line_break_counter(tokenizer)
    scores = line_scores(text, ids, [-1.0] * (len(ids) + 1), breaks)
    assert sum(scores) == -(len(ids) + 1), "every token and the end count once"
    assert len(scores) == 5
    decoded = [tokenizer.decode(ids[:number]).count("\n") for number in range(len(ids))]
    assert scores[0] == -decoded.count(0)
    assert line_scores("a\nb\nc", ids[:1], [-1.0], breaks) == (-1.0, None, None)
    assert line_scores("a", ids, [-1.0] * len(ids), breaks) == (scores[0],)


def test_a_text_is_cut_where_it_runs_in_circles() -> None:
    circle = "### Entities:\n1. [Drug] a\n2. [Drug] a\n3. [Drug] a\n"
    heading = "\n### Relations:\n"
    text, lark, closed = next_phase(grammar(SYNTHETIC, "a"), 0, circle + "4. [Drug] a\n")
    assert (text, closed) == (circle + heading, False)
    assert "None" in lark
    assert next_phase(grammar(SYNTHETIC, "a"), 0, circle[:-1]) == (circle[:-1], "", False)
    related = circle + heading + "1. a --[causes]--> b\n2. a --[causes]--> b\n3. a --[causes]--> b"
    assert next_phase(grammar(SYNTHETIC, "a b"), 1, related + "\n4. a", len(circle)) == (related, "", True)


def test_a_prompt_near_the_end_of_the_context_leaves_less_room(base: BaseModel) -> None:
    tokenizer = load_tokenizer(base)
    text = "a"
    while len(prompt_ids(tokenizer, render_prompt(ADE, text))) < 1014:
        text += " a"
    room = 1024 - len(prompt_ids(tokenizer, render_prompt(ADE, text)))
    [(_, finished, tokens)] = write(base, prompts=[render_prompt(ADE, text)], max_new_tokens=40)
    assert (finished, tokens) == (False, room)


def test_a_prompt_beyond_the_context_is_refused_by_name(base: BaseModel) -> None:
    with pytest.raises(RecordTooLongError, match=r"ade-7.*never cut"):
        write(base, prompts=[PROMPTS[0], render_prompt(ADE, "naproxen " * 900)], names=["ade-1", "ade-7"])


def test_progress_counts_every_prompt(base: BaseModel) -> None:
    seen: list[tuple[int, int]] = []
    write(base, batch_size=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, len(PROMPTS)) for number in range(1, len(PROMPTS) + 1)]


# What is kept of a generation that was killed


class Killed(BaseException):
    """As a signal: nothing below catches it."""


@pytest.mark.parametrize("grammars", [None, GRAMMARS], ids=["free", "constrained"])
def test_a_killed_generation_goes_on_where_it_stopped(
    base: BaseModel, tmp_path: Path, grammars: list[ExtractionGrammar] | None
) -> None:
    resume_log = tmp_path / "work.jsonl"
    job = {"prompts": PROMPTS * 5, "grammars": grammars and GRAMMARS * 5}
    straight = write(base, **job)

    def kill(done: int, _: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        write(base, **job, batch_size=1, resume_log=resume_log, on_progress=kill)
    kept = len(resume_log.read_text().splitlines()) - 1
    assert 2 <= kept < len(PROMPTS * 5)
    seen: list[int] = []
    resumed = write(base, **job, resume_log=resume_log, on_progress=lambda done, _: seen.append(done))
    assert resumed == straight
    assert seen == list(range(kept + 1, len(PROMPTS * 5) + 1))
    assert write(base, **job, resume_log=resume_log) == straight


def test_a_resume_log_of_another_job_is_not_continued(base: BaseModel, adapter: Path, tmp_path: Path) -> None:
    resume_log = tmp_path / "work.jsonl"
    write(base, resume_log=resume_log)
    others = {"adapter": adapter}, {"max_new_tokens": 7}, {"grammars": GRAMMARS}, {"prompts": PROMPTS[:3]}
    for options in (*others, {"precision": "bf16"}):
        seen: list[int] = []
        fresh = write(base, **options)
        found = write(base, **options, resume_log=resume_log, on_progress=lambda done, _, seen=seen: seen.append(done))
        assert found == fresh
        assert len(seen) == len(fresh), "nothing of the other job was taken"


def test_a_resume_log_is_read_up_to_the_line_that_was_cut(base: BaseModel, tmp_path: Path) -> None:
    resume_log = tmp_path / "work.jsonl"
    straight = write(base, resume_log=resume_log)
    lines = resume_log.read_text().splitlines(keepends=True)
    for rest in (lines[2][:-5], "not json\n", '["no object"]\n', '{"text": "no index"}\n'):
        resume_log.write_text("".join(lines[:2]) + rest)
        seen: list[int] = []
        assert write(base, resume_log=resume_log, on_progress=lambda done, _, seen=seen: seen.append(done)) == straight
        assert len(seen) == len(PROMPTS) - 1


def test_another_process_knows_the_job_again() -> None:
    program = (
        "from extraction_values import TASK\n"
        "from odin_slm.inference.reading import Question\n"
        "print(Question('Aspirin.', TASK.instruction('biored'), TASK).grammar)"
    )
    paths = f"{ROOT / 'src'}:{ROOT / 'tests'}"
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1, "a resume log names the grammars by what they print"


def test_progress_is_logged_where_there_is_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), progress("Generating", 2) as on_progress:
        on_progress(1, 2)
        on_progress(2, 2)
    assert re.search(r"Generating: 2 of 2, [\d.]+ examples/s, 0 s left", caplog.text)


def test_what_an_earlier_attempt_left_counts_for_no_speed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), progress("Generating", 100_000) as on_progress:
        on_progress(99_999, 100_000)
        time.sleep(0.02)
        on_progress(100_000, 100_000)
    [rate] = re.findall(r"([\d.]+) examples/s", caplog.text)
    assert 0 < float(rate) <= 100


# Adapters that do not fit

pytestmark = pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")


def broken(adapter: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    shutil.copytree(adapter, folder)
    change(folder)
    return folder


def rewrite(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def resize(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(file)), file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "not the configuration of an adapter"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "not the configuration of an adapter"),
        (lambda f: rewrite(f / "adapter_config.json", peft_type="PROMPT_TUNING"), "expected LORA"),
        (lambda f: rewrite(f / "adapter_config.json", target_modules=["c_attn"]), "does not fit the base tiny"),
        (lambda f: rewrite(f / "adapter_config.json", r=8), "does not fit the base tiny"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"12345678"), "cannot be read"),
        (
            lambda f: resize(f / "adapter_model.safetensors", lambda tensors: dict(list(tensors.items())[2:])),
            "is missing, expected",
        ),
        (
            lambda f: resize(f / "adapter_model.safetensors", lambda t: {k: numpy.zeros((9, 9)) for k in t}),
            "does not fit the base tiny",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    base: BaseModel, adapter: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    with pytest.raises(AdapterError, match=message) as caught:
        write(base, broken(adapter, tmp_path / "broken", change))
    assert str(tmp_path / "broken") in str(caught.value)


# What the grammar allows


def accepts(text: str, output: str, instruction: str) -> bool:
    return grammar(instruction, text).accepts(output)


def assert_held(text: str, output: str, instruction: str) -> None:
    """What constrained decoding promises."""
    schema = grammar(instruction, text).schema
    parsed = parse(output)
    assert parsed.well_formed, output
    types: dict[str, set[str]] = {}
    for entity in parsed.extraction.entities:
        assert entity.text in text
        assert entity.text == entity.text.strip() != ""
        assert entity.type in schema.entities
        types.setdefault(entity.text, set()).add(entity.type)
    for relation in parsed.extraction.relations:
        assert relation.type in schema.relations
        assert relation.head != relation.tail
        pairs = {(head, tail) for head in types[relation.head] for tail in types[relation.tail]}
        assert pairs & MEDICAL.legal[relation.type]


@pytest.mark.parametrize("source", SCHEMAS)
def test_random_weights_write_only_what_is_promised(base: BaseModel, adapter: Path, source: str) -> None:
    instruction = instruction_for(SCHEMAS[source])
    grammars = [grammar(instruction, text) for text in TEXTS]
    prompts = [render_prompt(instruction, text) for text in TEXTS]
    for limit in (7, 120):
        outputs = generate(base, adapter, prompts, batch_size=8, max_new_tokens=limit, grammars=grammars)
        for text, output in zip(TEXTS, outputs, strict=True):
            assert_held(text, output.text, instruction)
            assert output.finished or output.tokens == limit


@pytest.mark.parametrize("seed", range(40))
def test_any_allowed_tokens_make_only_what_is_promised(vocabulary: Vocabulary, seed: int) -> None:
    """Choose among the allowed tokens by chance, as no model would."""
    rng = random.Random(seed)
    text, instruction = rng.choice(TEXTS), rng.choice([ADE, SYNTHETIC])
    constraint = Constraint(vocabulary, grammar(instruction, text))
    end = vocabulary.tokens.eos_token
    finished = False
    for _ in range(rng.choice([20, 200, 600])):
        forced = constraint.forced()
        [allowed] = vocabulary.allowed([constraint]).wide()
        assert forced is None or numpy.flatnonzero(allowed).tolist() == [forced]
        token = rng.choice(numpy.flatnonzero(allowed).tolist())
        if token == end:
            finished = True
            break
        constraint.consume(token)
        if constraint.closed:
            finished = True
            break
    assert_held(text, constraint.text if finished else constraint.complete_text, instruction)


GOLD = Extraction(
    (Entity("Drug", "enalapril"), Entity("Drug", "aspirin"), Entity("Symptom", "acute renal failure")),
    (
        RelationTriple("enalapril", "causes", "acute renal failure"),
        RelationTriple("aspirin", "treats", "acute renal failure"),
    ),
)


def test_gold_passes_token_by_token(vocabulary: Vocabulary, base: BaseModel) -> None:
    constraint = Constraint(vocabulary, GRAMMARS[1])
    for token in completion_ids(load_tokenizer(base), render(GOLD))[:-1]:
        [allowed] = vocabulary.allowed([constraint]).wide()
        assert allowed[token]
        constraint.consume(token)
    [allowed] = vocabulary.allowed([constraint]).wide()
    assert allowed[vocabulary.tokens.eos_token]
    assert constraint.text == render(GOLD)


def test_a_token_that_is_not_allowed_is_refused(vocabulary: Vocabulary) -> None:
    constraint = Constraint(vocabulary, GRAMMARS[0])
    [allowed] = vocabulary.allowed([constraint]).wide()
    with pytest.raises(GrammarError, match="decoding=free"):
        constraint.consume(int(numpy.flatnonzero(~allowed)[0]))


def test_a_line_written_for_the_third_time_ends_its_list(vocabulary: Vocabulary, base: BaseModel) -> None:
    tokenizer = load_tokenizer(base)
    constraint = Constraint(vocabulary, GRAMMARS[1])

    def say(text: str) -> None:
        for token in completion_ids(tokenizer, text)[:-1]:
            constraint.consume(token)

    lines = ("[Drug] aspirin", "[Symptom] fever", "[Drug] aspirin", "[Symptom] fever", "[Drug] aspirin")
    entities = "".join(f"{number}. {line}\n" for number, line in enumerate(lines, start=1))
    say(f"### Entities:\n{entities}")
    assert constraint.matcher.compute_ff_bytes() == b"\n### Relations:\n"
    say("\n### Relations:\n")
    for number in (1, 2, 3):
        assert not constraint.closed
        say(f"{number}. aspirin --[treats]--> fever\n")
    assert constraint.closed
    assert constraint.text.endswith("3. aspirin --[treats]--> fever")
    assert parse(constraint.text).well_formed


def output(entities: Sequence[tuple[str, str]], relations: Sequence[tuple[str, str, str]] = ()) -> str:
    return render(Extraction(tuple(Entity(*e) for e in entities), tuple(RelationTriple(*r) for r in relations)))


@pytest.mark.parametrize(
    ("text", "written", "expected"),
    [
        (TEXTS[1], render(GOLD), True),
        (TEXTS[1], output([]), True),
        (TEXTS[0], output([("Drug", "Aspirin"), ("Symptom", "nausea")], [("Aspirin", "causes", "nausea")]), True),
        (TEXTS[0], output([("Drug", "aspirin")]), False),  # another case
        (TEXTS[0], output([("Drug", "Aspirin nausea")]), False),  # not contiguous
        (TEXTS[0], output([("Drug", "allopurinol")]), False),  # not in the text
        (TEXTS[0], output([("Gene", "Aspirin")]), False),  # no such type
        (TEXTS[0], output([("Drug", " caused")]), False),  # white space at an end
        (TEXTS[0], output([], [("Aspirin", "causes", "nausea")]), False),  # arguments not listed
        (TEXTS[0], output([("Drug", "Aspirin"), ("Drug", "nausea")], [("Aspirin", "causes", "nausea")]), False),
        (TEXTS[0], output([("Drug", "Aspirin"), ("Symptom", "nausea")], [("nausea", "causes", "Aspirin")]), False),
        (TEXTS[0], output([("Drug", "Aspirin")], [("Aspirin", "interacts_with", "Aspirin")]), False),
        (TEXTS[2], output([("Drug", "5'-fluorouracil/leucovorin [5-FU]"), ("Drug", "Ca2+"), ("Disease", "😀")]), True),
        (TEXTS[2], output([("Drug", "Ca2")]), True),
        (TEXTS[2], output([("Drug", "Ca")]), False),  # part of a word
        (TEXTS[4], output([("Drug", "naproxen"), ("Symptom", "A tab\there")]), True),
        (TEXTS[4], output([("Drug", "break\nthere")]), False),  # would have to be escaped
        (TEXTS[4], output([("Drug", "back\\slash")]), False),
        (TEXTS[4], output([("Drug", "arrow --[causes")]), False),
        ("", output([]), True),
        ("", output([("Drug", "a")]), False),
        (TEXTS[0], "### Entities:\n1. [Drug] Aspirin", False),
        (TEXTS[0], "", False),
    ],
)
def test_what_the_grammar_accepts(text: str, written: str, expected: bool) -> None:
    assert accepts(text, written, SYNTHETIC) is expected


def test_names_may_hold_any_character_that_the_format_does_not_escape() -> None:
    odd = [*map(chr, (*range(1, 0x21), *range(0x7F, 0xA1))), *"\"'/%{}$&|`\u0308\u200b\u2028\ufeff"]
    for character in odd:
        if character in "\n\r":
            continue
        drug, symptom = f"a{character}b", f"c{character}d"
        written = output([("Drug", drug), ("Symptom", symptom)], [(drug, "causes", symptom)])
        assert accepts(f"Then {drug} and {symptom}.", written, SYNTHETIC), hex(ord(character))


def test_only_types_that_the_instruction_names_are_accepted() -> None:
    disease = output([("Disease", "nausea")])
    assert accepts(TEXTS[0], disease, instruction_for(SCHEMAS["bc5cdr"]))
    assert not accepts(TEXTS[0], disease, ADE)
    assert accepts(TEXTS[0], disease, "List what you find.")  # unknown wording: the whole closed sets
    treats = output([("Drug", "Aspirin"), ("Symptom", "nausea")], [("Aspirin", "treats", "nausea")])
    assert accepts(TEXTS[0], treats, SYNTHETIC)
    assert not accepts(TEXTS[0], treats, ADE)
