"""The step on a CPU: loss and gradients are those of autograd, and training goes as with TRL's step."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.test_architectures import SIZES
from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.models import backends, memory, preflight
from odin_slm.models.backends import with_adapter
from odin_slm.models.base_model import BaseModel
from odin_slm.training.collation import IGNORED
from odin_slm.training.cpu_step import CpuStep, Example, cpu_step_of, group_of, share_out, shared_prefix
from odin_slm.training.lora import train_lora
from training.test_training import PARAMS, records

LORA = LoraParams(r=4, alpha=6)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
        | {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    },
    "mistral": {"sliding_window": 400, "tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": True},  # biases
    "qwen3": {"head_dim": 16},  # norms of queries and keys
}


def model_of(kind: str, lora: LoraParams | None = LORA) -> Any:
    """A random model in double precision with an adapter that has an effect; without ``lora`` all of it is trained."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    padding = examples_of()[0][0][0]  # its embedding has no gradient
    config = AutoConfig.for_model(kind, **SIZES, **ARCHITECTURES[kind], pad_token_id=padding)
    model = AutoModelForCausalLM.from_config(config).double()
    if lora:
        targets = lora.target_modules
        adapter = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=list(targets), use_rslora=lora.rslora)
        model = get_peft_model(model, adapter)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(1 if "norm" in name else 0, 0.2)
    return model


def examples_of(count: int = 7, seed: int = 0) -> list[Example]:
    """Random examples of 2 instructions, with prompts and outputs of different lengths."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def some(length: int) -> list[int]:
        return torch.randint(512, (length,), generator=generator).tolist()

    instructions = [some(20), some(18)]
    made = []
    for number in range(count):
        prompt, output = instructions[number % 3 == 2] + some(1 + 9 * number), some(2 + 5 * (number % 3))
        made.append((prompt + output, [IGNORED] * len(prompt) + output))
    return made


def expected_of(model: Any, examples: list[Example], total: int) -> tuple[float, list[Any]]:
    """Loss and gradients by autograd, one example at a time."""
    import torch

    loss = 0.0
    for ids, labels in examples:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        one = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=IGNORED, reduction="sum")
        (one / total).backward()
        loss += float(one.detach()) / total
    return loss, [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_the_model(kind: str, lora: LoraParams | None, cores: int) -> None:
    import torch

    model, examples = model_of(kind, lora), examples_of()
    loss, gradients = expected_of(model, examples, 50)
    model.zero_grad()
    step = CpuStep(model.float(), cores, torch.float32)
    assert float(step.add_gradients(examples, 50)) == pytest.approx(loss, rel=1e-5)
    assert float(step.loss(examples)) / 50 == pytest.approx(loss, rel=1e-5)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == len(gradients) == (2 * 7 * 2 if lora else len(list(model.parameters())))
    for parameter, gradient in zip(trained, gradients, strict=True):
        assert float((parameter.grad - gradient).norm() / gradient.norm()) < 1e-4

    # gradients add up, as accumulation expects, and follow the weights
    step.add_gradients(examples, 50)
    assert float((trained[0].grad - 2 * gradients[0]).norm() / gradients[0].norm()) < 1e-4
    with torch.no_grad():
        for parameter in trained:
            parameter.mul_(1.1)
    assert float(step.loss(examples)) / 50 == pytest.approx(expected_of(model, examples, 50)[0], rel=1e-4)
    step.close()


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
@pytest.mark.parametrize("fused", [False, True])
def test_the_next_loss_is_of_the_weights_after_an_optimizers_step(optimizer: str, fused: bool) -> None:
    import torch

    model, examples = model_of("llama").float(), examples_of()
    step = CpuStep(model, 2, torch.float32)
    step.add_gradients(examples, 50)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    getattr(torch.optim, optimizer)(trained, lr=0.1, fused=fused).step()
    assert float(step.loss(examples)) / 50 == pytest.approx(expected_of(model, examples, 50)[0], rel=1e-4)
    step.close()


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), ("o_proj", "up_proj")])
def test_any_layers_may_have_adapters(targets: tuple[str, ...]) -> None:
    import torch

    model, examples = (
        model_of("qwen2", LORA.model_copy(update={"target_modules": targets, "rslora": True})),
        examples_of(),
    )
    _, gradients = expected_of(model, examples, 50)
    model.zero_grad()
    step = CpuStep(model.float(), 2, torch.float32)
    step.add_gradients(examples, 50)
    for parameter, gradient in zip((p for p in model.parameters() if p.requires_grad), gradients, strict=True):
        assert float((parameter.grad - gradient).norm() / gradient.norm()) < 1e-4
    step.close()


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_16_bit_products_round_and_no_more(kind: str, lora: LoraParams | None) -> None:
    import torch

    model, examples = model_of(kind, lora), examples_of()
    loss, gradients = expected_of(model, examples, 50)
    model.zero_grad()
    step = CpuStep(model.float(), 2, torch.bfloat16)
    assert float(step.add_gradients(examples, 50)) == pytest.approx(loss, rel=0.02)
    for parameter, gradient in zip((p for p in model.parameters() if p.requires_grad), gradients, strict=True):
        assert float((parameter.grad - gradient).norm() / gradient.norm()) < 0.15
    step.close()


@given(
    lengths=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=20),
    cores=st.integers(1, 4),
    tokens=st.integers(1, 200),
)
def test_every_label_is_scored_once_and_sees_its_own_example(
    lengths: list[tuple[int, int]], cores: int, tokens: int
) -> None:
    examples: list[Example] = [
        ([*range(15), *range(100 * n, 100 * n + prompt + output)], [IGNORED] * (15 + prompt) + [n] * output)
        for n, (prompt, output) in enumerate(lengths)
    ]
    shares = share_out(examples, cores, tokens)
    assert len(shares) == cores
    groups = [group for share in shares for group in share]
    targets = sorted(target for group in groups for target in group.targets.tolist())
    assert targets == sorted(n for n, (_, output) in enumerate(lengths) for _ in range(output))
    whole = [list(ids) for ids, _ in examples]
    assert all(len(group.ids) <= tokens + 2 * max(map(len, whole)) for group in groups)
    for group in groups:
        rows = group.ids[group.padded].view(group.shape).tolist()
        found = [next(ids for ids in whole if row[: len(ids)] == ids) for row in rows]
        assert len(group.ids) == sum(map(len, found)) - group.prefix * (len(found) - 1)
        assert (group.positions == group.taken % group.shape[1]).all()
        assert (group.ids[group.padded][group.taken] == group.ids).all()


def test_the_shared_prefix_ends_before_the_first_prediction() -> None:
    one: Example = ([1, 2, 3, 4, 5], [IGNORED, IGNORED, IGNORED, 4, 5])
    two: Example = ([1, 2, 3, 4, 6], [IGNORED, IGNORED, IGNORED, 4, 6])
    assert shared_prefix([one, two]) == 2  # token 2, the third, predicts the first label
    assert shared_prefix([one]) == 0
    assert group_of([one, two]).ids.tolist() == [1, 2, 3, 4, 5, 3, 4, 6]
    assert shared_prefix([one, ([7, 2, 3], [IGNORED, IGNORED, 3])]) == 0
    unlabelled: Example = ([1, 2, 3], [IGNORED] * 3)
    assert shared_prefix([unlabelled, unlabelled]) == 2
    assert [group.shape[0] for share in share_out([unlabelled, unlabelled], 1, 512) for group in share] == [2]


def test_work_is_even() -> None:
    rows: list[Example] = [
        ([n] * length, [IGNORED] + [1] * (length - 1)) for n, length in enumerate([90] * 13 + [400] * 3)
    ]
    loads = [sum(len(group.ids) for group in share) for share in share_out(rows, 2, 512)]
    assert max(loads) < 1.2 * sum(loads) / 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_memory_estimate_knows_how_large_groups_are(precision: str, base: BaseModel) -> None:
    params = PARAMS.model_copy(update={"precision": precision})
    machine = preflight.Machine("cpu", "2 CPU cores", memory.GIB, memory.GIB)
    job = preflight.job_of(params, preflight.read_config(base), "transformers", machine)
    step = cpu_step_of(with_adapter("transformers", base, params), params)
    assert step is not None
    assert step.tokens == job.group > 512
    step.close()
    assert memory.group_tokens(1536, 4) == 512 < memory.group_tokens(1536, 2) == 1024
    assert memory.group_tokens(14336, 2) == 512


def test_examples_of_one_question_are_computed_together() -> None:
    """All have the same instruction, and two kinds of question are told apart only behind it, as in spelling."""
    instruction, questions = [*range(100, 140)], ([*range(200, 240)], [*range(300, 340)])
    rows: list[Example] = [
        (
            [*instruction, *questions[n % 2], *range(1000 * n, 1000 * n + length), 7],
            [IGNORED] * (80 + length) + [7],
        )
        for n, length in enumerate([20, 21, 22, 23, 24, 25, 26, 27] * 2, start=1)
    ]
    groups = [group for share in share_out(rows, 2, 512) for group in share]
    assert {group.prefix for group in groups} == {80}
    assert {group.shape[0] for group in groups} == {4}


def test_examples_of_one_instruction_are_sorted_by_length() -> None:
    rows: list[Example] = [
        ([1, 2, 3, 100 + n, *[9] * length], [IGNORED] * (4 + length - 1) + [9])
        for n, length in enumerate([30, 300, 120, 210] * 10)
    ]
    padded = sum(len(group.padded) for share in share_out(rows, 2, 512) for group in share)
    assert padded < 1.2 * sum(len(ids) for ids, _ in rows)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_goes_as_with_trls_step(
    method: str, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    varied = [{**record, "input": record["input"] * (1 + n % 3)} for n, record in enumerate(records(10))]
    params = PARAMS.model_copy(
        update={
            "method": method,
            "max_steps": 5,
            "evaluations": 1,
            "gradient_accumulation_steps": 2,
            "precision": "fp32",
        }
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    own, state = train_lora(base, varied, records(2, 100), tmp_path / "own", params, lambda *_: None)
    padded = params.model_copy(update={"packing": False})
    theirs, expected = train_lora(base, varied, records(2, 100), tmp_path / "theirs", padded, lambda *_: None)
    assert (state["cpu_step"], expected["cpu_step"]) == (True, False)
    for key in ("loss", "grad_norm", "eval_loss"):
        ours, other = ([e[key] for e in s["history"] if key in e] for s in (state, expected))
        assert ours == pytest.approx(other, rel=1e-3)
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    one, two = (load_file(folder / name) for folder in (own, theirs))
    torch.testing.assert_close(one, two, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize(
    "other",
    [
        {"lora": LoraParams(dropout=0.1)},
        {"lora": LoraParams(dora=True)},
        {"lora": LoraParams(bias="all")},
        {"lora": LoraParams(target_modules=("q_proj", "embed_tokens"))},
        {"method": "full", "dtype": "bfloat16"},
        {"neftune_noise_alpha": 5.0},
        {"gradient_checkpointing": True},
        {"attention": "eager"},
        {"packing": False},
    ],
)
def test_trls_step_computes_what_ours_cannot(other: dict[str, Any], base: BaseModel) -> None:
    if backends.cuda():
        pytest.skip("there is a CUDA device")
    params = TrainingParams.model_validate(TrainingParams().model_dump() | other)
    model = backends.with_adapter("transformers", base, TrainingParams())
    step = cpu_step_of(model, TrainingParams())
    assert step is not None
    step.close()
    assert cpu_step_of(model, params) is None
    assert cpu_step_of(model, TrainingParams(), processes=2) is None


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)
