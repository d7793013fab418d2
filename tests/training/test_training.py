"""Training: the mask is exact, TRL's loss on a CPU has the right gradients, the best checkpoint is kept."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from conftest import ROOT
from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import BackendError, BaseModelError, DeviceMemoryError, RecordTooLongError
from odin_slm.core.hashing import canonical_json
from odin_slm.core.record import Record, full_text
from odin_slm.inference.generation import generate
from odin_slm.models import backends
from odin_slm.models.backends import with_adapter
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer, resolve_base_model
from odin_slm.models.preflight import read_config
from odin_slm.models.tokens import completion_ids
from odin_slm.training.callbacks import Progress
from odin_slm.training.collation import IGNORED, check_mask, tokenise
from odin_slm.training.lora import total_steps, train_lora

PARAMS = TrainingParams(
    max_seq_length=400, epochs=4, batch_size=4, logging_steps=1, evaluations=2, learning_rate=0.01, lora=LoraParams(r=4)
)


def records(count: int, start: int = 0) -> list[Record]:
    return [
        Record(
            instruction="Extract entities: Drug, Symptom. Relations: causes.",
            input=f"Patient {n} had nausea after aspirin.",
            output="### Entities:\n1. [Symptom] nausea\n2. [Drug] aspirin\n\n"
            "### Relations:\n1. aspirin --[causes]--> nausea",
            id=f"ade-{n}",
            source="ade",
            document_id=f"ade-{n}",
        )
        for n in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


def test_labels_cover_the_completion_and_eos_and_nothing_else(base: BaseModel) -> None:
    tokenizer = load_tokenizer(base)
    rows = tokenise(tokenizer, records(3), 400)
    for record, row in zip(records(3), rows, strict=True):
        labelled = [label for label in row["labels"] if label != IGNORED]
        assert tokenizer.decode(labelled) == record["output"] + tokenizer.eos_token
        assert labelled[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id
        prompt = row["input_ids"][: len(row["input_ids"]) - len(labelled)]
        assert tokenizer.decode(prompt).endswith("\n\n### Output:\n")
    check_mask(tokenizer, records(3), rows)


def test_of_an_exercise_the_answers_alone_are_labelled(base: BaseModel) -> None:
    tokenizer = load_tokenizer(base)
    output = "### Pairs:\naspirin --[causes]--> nausea: yes\ncodeine --[causes]--> nausea: no"
    learned = [[output.index(answer), output.index(answer) + len(answer)] for answer in (" yes", " no")]
    exercise = Record({**records(1)[0], "output": output, "learned": learned})
    (row,) = tokenise(tokenizer, [exercise], 400)
    labelled = [place for place, label in enumerate(row["labels"]) if label != IGNORED]
    assert tokenizer.decode([row["input_ids"][place] for place in labelled]) == " yes no"
    assert [row["labels"][place] for place in labelled] == [row["input_ids"][place] for place in labelled]
    check_mask(tokenizer, [exercise], [row])
    with pytest.raises(BackendError, match=r"ade-0: a token reaches across the end of 's\\nco'"):
        tokenise(tokenizer, [Record({**exercise, "learned": [[learned[0][1] - 1, learned[0][1] + 3]]})], 400)


def test_a_wrong_mask_stops_the_run(base: BaseModel) -> None:
    tokenizer = load_tokenizer(base)
    rows = tokenise(tokenizer, records(1), 400)
    rows[0]["labels"][-1] = IGNORED
    with pytest.raises(BackendError, match="ade-0"):
        check_mask(tokenizer, records(1), rows)


def test_nothing_is_truncated(base: BaseModel) -> None:
    with pytest.raises(RecordTooLongError, match=r"max_seq_length.*2 of 2 records exceed 20 tokens: ade-0, ade-1"):
        tokenise(load_tokenizer(base), records(2), 20)


def test_the_loss_without_triton_has_the_gradients_of_the_models_own_loss(base: BaseModel) -> None:
    import torch
    from trl.trainer.utils import add_fused_lm_head

    from odin_slm.training import lm_head

    lm_head.install()
    tokenizer = load_tokenizer(base)
    rows = tokenise(tokenizer, records(2), 400)
    batch = {key: torch.tensor([row[key] for row in rows]) for key in ("input_ids", "labels")}

    def gradients(fused: bool) -> tuple[float, dict[str, Any]]:
        torch.manual_seed(0)
        model = load_model(base).train()
        if fused:
            add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
            loss = model(**batch, fused_lm_head=True).loss
        else:
            loss = model(**batch).loss
        loss.backward()
        return loss.item(), {name: p.grad for name, p in model.named_parameters()}

    (ours, our_gradients), (theirs, their_gradients) = gradients(True), gradients(False)
    assert ours == pytest.approx(theirs, rel=1e-5)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_training_learns_keeps_the_best_checkpoint_and_is_reproducible(base: BaseModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    logged: list[int] = []
    runs = [
        train_lora(base, records(24), records(4, 100), tmp_path / str(n), PARAMS, lambda step, _: logged.append(step))
        for n in range(2)
    ]
    adapter, state = runs[0]
    losses = [entry["loss"] for entry in state["history"] if "loss" in entry]
    assert losses[-1] < losses[0] - 0.2
    assert state["best_eval_loss"] == min(e["eval_loss"] for e in state["history"] if "eval_loss" in e)
    assert state["steps"] == 24 == max(logged)
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {f.name for f in adapter.iterdir()}
    assert str(tmp_path) not in (adapter / "adapter_config.json").read_text()
    first, second = (load_file(run[0] / "adapter_model.safetensors") for run in runs)
    assert all((first[name] == second[name]).all() for name in first)
    assert any(value.abs().max() > 0 for name, value in first.items() if "lora_B" in name)


@pytest.fixture(scope="module")
def straight(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted run: 8 steps, checkpoints after 2, 4, 6 and 8."""
    return train_lora(base, records(8), records(4, 100), tmp_path_factory.mktemp("straight"), SHORT, lambda *_: None)


SHORT = PARAMS.model_copy(update={"evaluations": 4})


class Killed(BaseException):
    """Like a signal: no code under test catches it."""


def stopped_at(step: int, base: BaseModel, work: Path, params: TrainingParams = SHORT) -> None:
    def kill(now: int, _: dict[str, float]) -> None:
        if now == step:
            raise Killed

    with pytest.raises(Killed):
        train_lora(base, records(8), records(4, 100), work, params, kill)


@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_resuming_a_killed_run_yields_a_bit_identical_adapter(
    base: BaseModel, tmp_path: Path, straight: tuple[Path, dict[str, Any]], step: int
) -> None:
    from safetensors.torch import load_file

    stopped_at(step, base, tmp_path)
    resumed = SHORT.model_copy(update={"resume": True})
    adapter, state = train_lora(base, records(8), records(4, 100), tmp_path, resumed, lambda *_: None)
    assert state["resumed_from_step"] == (step - 1 or None)
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (straight[0], adapter))
    assert all((one[name] == two[name]).all() for name in one)

    def losses(state: dict[str, Any]) -> list[float]:
        return [entry["loss"] for entry in state["history"] if "loss" in entry]

    assert losses(state) == losses(straight[1])


@pytest.mark.parametrize(
    ("change", "steps"), [({}, [3, 7]), ({"eval_steps": 3}, [3, 6, 7]), ({"max_steps": 8, "evaluations": 2}, [4, 8])]
)
def test_no_evaluation_comes_shortly_before_the_last(
    base: BaseModel, tmp_path: Path, change: dict[str, int], steps: list[int]
) -> None:
    update = {"max_steps": 7, "evaluations": 2, "generation_samples": 0, **change}
    params = PARAMS.model_copy(update=update)
    _, state = train_lora(base, records(8), records(4, 100), tmp_path, params, lambda *_: None)
    assert [entry["step"] for entry in state["history"] if "eval_loss" in entry] == steps


@pytest.mark.parametrize("change", [{"epochs": 1.5}, {"epochs": 1.5, "load_best_model_at_end": False}, {"patience": 1}])
def test_a_run_that_has_ended_is_not_trained_beyond_its_end(
    base: BaseModel, tmp_path: Path, change: dict[str, Any]
) -> None:
    update = {"scheduler": "constant", "evaluations": 3, "generation_samples": 0, **change}
    if update.pop("patience", None):  # at this rate the loss rises and falls
        update |= {"max_steps": 12, "evaluations": 12, "learning_rate": 30, "early_stopping_patience": 1}
    params = SHORT.model_copy(update={"max_steps": None, **update})
    adapter, first = train_lora(base, records(8), records(4, 100), tmp_path, params, lambda *_: None)
    assert first["stopped_early"] is ("early_stopping_patience" in update)
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    again = params.model_copy(update={"resume": True})
    adapter, second = train_lora(base, records(8), records(4, 100), tmp_path, again, lambda *_: None)
    assert (adapter / "adapter_model.safetensors").read_bytes() == weights
    assert (second["steps"], second["best_step"]) == (first["steps"], first["best_step"])
    assert second["resumed_from_step"] == first["steps"]


@pytest.mark.parametrize("cpu_step", [True, False])
def test_the_validation_loss_does_not_depend_on_the_batch(base: BaseModel, tmp_path: Path, cpu_step: bool) -> None:
    import torch

    threads = torch.get_num_threads()
    short = [Record({**one, "output": "### Entities:\nNone\n\n### Relations:\nNone"}) for one in records(5, 100)]
    validation = [*short, *records(4, 200)]
    found = []
    for batch, accumulation in ((1, 8), (4, 2), (8, 1)):
        update: dict[str, Any] = {"batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": 1}
        update |= {"evaluations": 1}
        update |= {"generation_samples": 0, "warmup_steps": 0, "packing": "auto" if cpu_step else False}
        params = PARAMS.model_copy(update=update)
        _, state = train_lora(base, records(8), validation, tmp_path, params, lambda *_: None)
        assert state["cpu_step"] is cpu_step
        found.append(state["best_eval_loss"])
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)
    assert torch.get_num_threads() == threads, "a batch of one leaves one thread to nobody after it"


def test_an_incomplete_checkpoint_is_set_aside(
    base: BaseModel, tmp_path: Path, straight: tuple[Path, dict[str, Any]]
) -> None:
    from safetensors.torch import load_file

    stopped_at(5, base, tmp_path)
    (tmp_path / "checkpoints/checkpoint-4/trainer_state.json").unlink()
    resumed = SHORT.model_copy(update={"resume": True})
    adapter, state = train_lora(base, records(8), records(4, 100), tmp_path, resumed, lambda *_: None)
    assert state["resumed_from_step"] == 2
    assert (tmp_path / "checkpoints/incomplete-checkpoint-4").is_dir()
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (straight[0], adapter))
    assert all((one[name] == two[name]).all() for name in one)


def test_a_resumed_run_keeps_the_precision_that_it_chose(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = SHORT.model_copy(update={"precision": "auto"})
    monkeypatch.setattr(backends, "multiplies_faster_in_bf16", lambda: True)
    stopped_at(3, base, tmp_path, auto)
    monkeypatch.setattr(backends, "multiplies_faster_in_bf16", lambda: False)
    fp32 = SHORT.model_copy(update={"resume": True, "precision": "fp32"})
    with pytest.raises(BackendError, match="other data, other parameters"):
        train_lora(base, records(8), records(4, 100), tmp_path, fp32, lambda *_: None)
    resumed = auto.model_copy(update={"resume": True})
    _, state = train_lora(base, records(8), records(4, 100), tmp_path, resumed, lambda *_: None)
    assert (state["resumed_from_step"], state["precision"]) == (2, "bf16")


def test_checkpoints_of_another_run_are_refused(base: BaseModel, tmp_path: Path) -> None:
    stopped_at(3, base, tmp_path)
    for other, data in (({"learning_rate": 0.02}, records(8)), ({}, records(8, 50))):
        wrong = SHORT.model_copy(update={"resume": True, **other})
        with pytest.raises(BackendError, match="other data, other parameters"):
            train_lora(base, data, records(4, 100), tmp_path, wrong, lambda *_: None)


def test_checkpoints_of_a_retrained_base_are_refused(base: BaseModel, tmp_path: Path) -> None:
    stopped_at(3, base, tmp_path / "work")
    folder = Path(shutil.copytree(base.path or "", tmp_path / "retrained"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 2e-6}))
    resumed = SHORT.model_copy(update={"resume": True})
    with pytest.raises(BackendError, match="another base"):
        train_lora(
            BaseModel(base.source, folder), records(8), records(4, 100), tmp_path / "work", resumed, lambda *_: None
        )


def test_dora_and_noise_take_effect(base: BaseModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    short = PARAMS.model_copy(update={"max_steps": 2, "evaluations": 1})
    dora = short.model_copy(update={"lora": LoraParams(r=4, dora=True)})
    adapter, _ = train_lora(base, records(8), records(2, 100), tmp_path / "dora", dora, lambda *_: None)
    assert any("lora_magnitude_vector" in name for name in load_file(adapter / "adapter_model.safetensors"))
    noisy = short.model_copy(update={"neftune_noise_alpha": 5.0})
    losses = [
        train_lora(base, records(8), records(2, 100), tmp_path / "n", params, lambda *_: None)[1]["history"][0]["loss"]
        for params in (short, noisy)
    ]
    assert losses[0] != losses[1]


def test_the_adapter_changes_the_output(base: BaseModel, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    adapter, _ = train_lora(base, records(24), records(4, 100), tmp_path, PARAMS, lambda *_: None)
    ids = torch.tensor([tokenise(load_tokenizer(base), records(1), 400)[0]["input_ids"]])
    with torch.no_grad():
        plain = load_model(base)(ids).logits
        tuned = PeftModel.from_pretrained(load_model(base), adapter)(ids).logits
    assert not torch.allclose(plain, tuned, atol=1e-3)


def test_total_steps() -> None:
    assert total_steps(100, TrainingParams(batch_size=16, epochs=2)) == 14
    assert total_steps(100, TrainingParams(batch_size=16, epochs=2, gradient_accumulation_steps=4)) == 4
    assert total_steps(100, TrainingParams(batch_size=16, epochs=2, max_steps=5)) == 5
    assert total_steps(100, TrainingParams(batch_size=16, epochs=2, max_steps=50)) == 50, "whatever the epochs"


def test_missing_target_modules_are_named(base: BaseModel, tmp_path: Path) -> None:
    wrong = TrainingParams(lora=LoraParams(target_modules=("q_proj", "c_attn")))
    with pytest.raises(BackendError, match=r"no module c_attn.*down_proj"):
        train_lora(base, records(4), records(2), tmp_path, wrong, lambda *_: None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "lacks config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "tokenizer.json").write_text("x"), "not JSON"),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text("[" * 10**5),
            "tokenizer_config.*200 deep",
        ),
        (lambda folder: (folder / "generation_config.json").write_text("[" * 10**5), "generation_.*200 deep"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no \\*.safetensors"),
        (lambda folder: _truncate(folder / "model.safetensors"), "not a whole safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"PK\x03\x04" * 9), "not a whole safetensors file"),
    ],
)
def test_a_corrupt_base_is_refused_before_it_is_loaded(
    tiny_base: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    damage(folder)
    with pytest.raises(BaseModelError, match=message) as caught:
        resolve_base_model("base", root=tmp_path)
    assert caught.value.fix


@pytest.mark.parametrize(("name", "read"), [("tokenizer_config.json", load_tokenizer), ("config.json", read_config)])
def test_a_base_of_the_hub_with_json_nested_too_deep_is_refused(
    tiny_base: Path, tmp_path: Path, name: str, read: Any
) -> None:
    import gc
    import shutil

    folder = tmp_path / "base"  # nobody checks a folder of the Hub's cache but transformers, whose parser this is
    shutil.copytree(tiny_base, folder)
    (folder / name).write_text("[" * 10**5)
    gc.disable()  # whatever the collector finalises at the end of the stack fails
    try:
        with pytest.raises(BaseModelError, match="recursion"):
            read(BaseModel("owner/name", folder))
    finally:
        gc.enable()


def test_a_base_is_a_folder_or_a_hub_id(tmp_path: Path) -> None:
    assert resolve_base_model("owner/name", root=tmp_path).location == "owner/name"
    with pytest.raises(BaseModelError, match="no such folder"):
        resolve_base_model("data/06_models/none", root=tmp_path)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def test_the_state_describes_the_training(base: BaseModel, tmp_path: Path) -> None:
    import torch

    adapter, state = train_lora(base, records(24), records(4, 100), tmp_path, PARAMS, lambda *_: None)
    assert [entry["step"] for entry in state["samples"]] == [12, 24]
    first, second = state["samples"][0]["samples"]
    assert (first["id"], second["id"]) == ("ade-100", "ade-101")
    assert first["gold"] == records(1)[0]["output"]
    assert state["best_step"] == 24
    last = state["samples"][-1]["samples"]
    budget = round(1.25 * len(completion_ids(load_tokenizer(base), first["gold"]))) + 16
    prompts = [full_text(record)[0] for record in records(2, 100)]
    expected = [g.text for g in generate(base, adapter, prompts, batch_size=2, max_new_tokens=budget)]
    assert [sample["prediction"] for sample in last] == expected
    assert any(expected)
    # the canary is the largest change of the last hidden states, as PEFT computes it from the saved adapter
    from peft import PeftModel

    ids = torch.tensor([tokenise(load_tokenizer(base), records(4, 100), 400)[0]["input_ids"]])
    with torch.no_grad():
        plain = load_model(base).get_decoder()(ids).last_hidden_state
        tuned = PeftModel.from_pretrained(load_model(base), adapter).get_base_model().get_decoder()(ids)
    change = (tuned.last_hidden_state - plain).abs().max().item()
    assert state["canary"] == {"record": "ade-100", "largest_change": pytest.approx(change, rel=1e-4)}
    assert (state["backend"], state["processes"], state["stopped_early"]) == ("transformers", 1, False)


def test_a_second_training_in_the_same_folder_is_refused(base: BaseModel, tmp_path: Path) -> None:
    refused: list[str] = []

    def meanwhile(step: int, _: dict[str, float]) -> None:
        if step == 3 and not refused:
            with pytest.raises(BackendError, match="another training is using this folder") as caught:
                train_lora(base, records(8), records(4, 100), tmp_path / "work", params, lambda *_: None)
            refused.append(caught.value.where)

    # the first step is the best: a second training would delete its checkpoint
    update: dict[str, Any] = {"max_steps": 3, "evaluations": 3, "warmup_steps": 0, "scheduler": "constant"}
    params = PARAMS.model_copy(update={**update, "learning_rate": 1e3, "generation_samples": 0})
    disturbed, state = train_lora(base, records(8), records(4, 100), tmp_path / "work", params, meanwhile)
    alone, _ = train_lora(base, records(8), records(4, 100), tmp_path / "alone", params, lambda *_: None)
    assert refused == [str(tmp_path / "work")]
    assert state["best_step"] == 1
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (disturbed, alone)]
    assert weights[0] == weights[1]
    assert {path.name for path in tmp_path.iterdir()} == {"work", "alone"}


def test_a_run_that_diverged_after_its_best_checkpoint_can_be_stored(
    base: BaseModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    update: dict[str, Any] = {"max_steps": 3, "evaluations": 3, "warmup_steps": 0, "scheduler": "constant"}
    params = PARAMS.model_copy(update={**update, "learning_rate": 1e3, "generation_samples": 0})
    _, state = train_lora(base, records(8), records(4, 100), tmp_path / "work", params, lambda *_: None)
    assert json.loads(canonical_json(state))["best_step"] == 1
    scored = [entry["step"] for entry in state["history"] if "eval_loss" in entry]
    assert scored == [1], "the later losses are not finite"
    # on some machines the entropy is not finite either
    assert re.search(
        r"Not finite at 4 of 6 log lines: (entropy, )?(eval_entropy, )?eval_loss, grad_norm\.", caplog.text
    )


def test_the_second_step_tells_how_long_the_run_will_take(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([0.0, 60.0])
    monkeypatch.setattr("odin_slm.training.callbacks.time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = Progress(104, 512.0, lambda *_: None)
    progress.begin(2)
    with caplog.at_level("INFO"):
        for step in (3, 4, 5):
            progress.step(step)
    assert [line.getMessage() for line in caplog.records] == ["about 50 minutes of training left, validations aside"]


def test_samples_do_not_change_the_result(
    base: BaseModel, tmp_path: Path, straight: tuple[Path, dict[str, Any]]
) -> None:
    from safetensors.torch import load_file

    without = SHORT.model_copy(update={"generation_samples": 0})
    adapter, state = train_lora(base, records(8), records(4, 100), tmp_path, without, lambda *_: None)
    assert state["samples"] == []
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (straight[0], adapter))
    assert all((one[name] == two[name]).all() for name in one)


def test_an_adapter_that_changes_nothing_is_refused(base: BaseModel, tmp_path: Path) -> None:
    warming_up = PARAMS.model_copy(update={"max_steps": 1, "evaluations": 1, "warmup_steps": 5})
    with pytest.raises(BackendError, match="changes nothing"):
        train_lora(base, records(4), records(2, 100), tmp_path, warming_up, lambda *_: None)


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path) -> None:
    # Whoever knows the format unlearns it from nonsense at the first step; a random base would have nothing to lose.
    knowing = BaseModel("odin-nano", ROOT / "data/06_models/odin-nano")
    nonsense = [Record({**one, "output": "Quizzical, jumpy, vexed: " * 8}) for one in records(16)]
    params = PARAMS.model_copy(update={"scheduler": "constant", "eval_steps": 1, "early_stopping_patience": 2})
    _, state = train_lora(knowing, nonsense, records(2, 100), tmp_path, params, lambda *_: None)
    losses = [entry["eval_loss"] for entry in state["history"] if "eval_loss" in entry]
    assert state["stopped_early"]
    assert state["steps"] == len(losses) < 16
    assert state["best_step"] == losses.index(min(losses)) + 1 == len(losses) - 2


def test_epochs_are_a_strategy_and_the_last_step_can_be_kept(base: BaseModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    params = PARAMS.model_copy(
        update={
            **{"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch", "epochs": 3.0},
            **{"load_best_model_at_end": False, "save_total_limit": 1},
        }
    )
    adapter, state = train_lora(base, records(8), records(2, 100), tmp_path, params, lambda *_: None)
    assert [entry["step"] for entry in state["history"] if "eval_loss" in entry] == [2, 4, 6]
    assert [entry["step"] for entry in state["history"] if "loss" in entry] == [2, 4, 6]
    assert state["best_step"] == 6
    (last,) = (tmp_path / "checkpoints").glob("checkpoint-*")
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (last, adapter))
    assert all((one[name] == two[name]).all() for name in one)


@pytest.mark.parametrize(
    "wrong",
    [
        {"eval_strategy": "epoch"},
        {"save_steps": 3},
        {"save_steps": 3, "eval_steps": 2},
        {"save_steps": 4, "eval_steps": 2},
        {"load_best_model_at_end": False, "early_stopping_patience": 1},
        {"optimizer": 3},
        {"metric_for_best_model": "f1"},
        {"report_to": ["mlflow"]},
        {"batch_size": "all"},
        {"batch_size": 0},
        {"lora": {"task_type": "SEQ_CLS"}},
    ],
)
def test_parameters_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingParams(**wrong)


def test_every_parameter_is_set_to_its_default_and_explained() -> None:
    text = (ROOT / "conf/base/parameters_training.yml").read_text(encoding="utf-8")
    shipped = yaml.safe_load(text)["training"]
    assert TrainingParams.model_validate(shipped | {"seed": 42}) == TrainingParams()
    assert set(shipped) == set(TrainingParams.model_fields)
    assert set(shipped["lora"]) == set(LoraParams.model_fields)
    lines = text.split("training:\n")[1].splitlines()
    assert not [line for line in lines if not re.search(r"\S +# \S", line)]


def smaller_memory(rows: int, used: list[int]) -> Any:
    """Make steps with more rows run out of memory: they raise the device's error in the middle of a step."""
    import torch

    from odin_slm.training.cpu_step import with_cpu_step

    def trainer_class(trainer: type[Any], step: Any) -> type[Any]:
        class Small(with_cpu_step(trainer, step)):
            def training_step(self, model: Any, inputs: dict[str, Any], *more: Any, **options: Any) -> Any:
                used.append(len(inputs["input_ids"]))
                if used[-1] > rows:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                return super().training_step(model, inputs, *more, **options)

        return Small

    return trainer_class


def test_out_of_memory_halves_the_batch_once_and_keeps_the_losses(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: tuple[Path, dict[str, Any]]
) -> None:
    from odin_slm.training import lora as training

    used: list[int] = []
    monkeypatch.setattr(training, "with_cpu_step", smaller_memory(2, used))
    halving = SHORT.model_copy(update={"oom": "halve"})
    _, state = train_lora(base, records(8), records(4, 100), tmp_path, halving, lambda *_: None)
    assert used == [4] + [2] * 16
    assert (state["hyperparameters"]["batch_size"], state["hyperparameters"]["gradient_accumulation_steps"]) == (2, 2)
    losses = [[e["loss"] for e in s["history"] if "loss" in e] for s in (state, straight[1])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_run_that_halved_its_batch_resumes_with_the_halved_one(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from odin_slm.training import lora as training

    used: list[int] = []
    monkeypatch.setattr(training, "with_cpu_step", smaller_memory(2, used))
    halving = SHORT.model_copy(update={"oom": "halve"})

    def kill(now: int, _: dict[str, float]) -> None:
        if now == 5:
            raise Killed

    with pytest.raises(Killed):
        train_lora(base, records(8), records(4, 100), tmp_path, halving, kill)
    used.clear()
    resumed = halving.model_copy(update={"resume": True})
    _, state = train_lora(base, records(8), records(4, 100), tmp_path, resumed, lambda *_: None)
    assert state["resumed_from_step"] == 4
    assert used == [2] * 8


def test_out_of_memory_says_what_to_change(base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from odin_slm.training import lora as training

    for rows, oom, batch in ((2, "fail", 4), (1, "halve", 2)):
        monkeypatch.setattr(training, "with_cpu_step", smaller_memory(rows, []))
        params = PARAMS.model_copy(update={"oom": oom})
        with pytest.raises(DeviceMemoryError, match=rf"batch_size={batch}.*CUDA out of memory") as caught:
            train_lora(base, records(8), records(2, 100), tmp_path, params, lambda *_: None)
        assert "gradient_checkpointing" in caught.value.fix


# Backends


def test_auto_is_transformers_without_cuda() -> None:
    if backends.cuda():
        pytest.skip("there is a CUDA device")
    assert backends.choose(TrainingParams()) == "transformers"
    assert backends.weights_dtype(TrainingParams()) == "float32"
    assert backends.precision(TrainingParams()) == ("bf16" if backends.multiplies_faster_in_bf16() else "fp32")
    assert backends.optimizer(TrainingParams()) == "adamw_torch"
    assert backends.optimizer(TrainingParams(method="full")) == "adamw_torch_fused"
    assert backends.optimizer(TrainingParams(load_in_4bit=True)) == "adamw_8bit"


@pytest.mark.parametrize(("cuda", "fix"), [(True, "pip install -e '.[gpu]'"), (False, "make unsloth")])
def test_without_unsloth_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, fix: str
) -> None:
    if importlib.util.find_spec("unsloth"):
        pytest.skip("unsloth is installed")
    monkeypatch.setattr(backends, "cuda", lambda: cuda)
    assert backends.choose(TrainingParams()) == "transformers"
    with pytest.raises(BackendError, match="not installed") as caught:
        backends.choose(TrainingParams(backend="unsloth"))
    assert fix in caught.value.fix
    assert "transformers" in caught.value.fix


def test_without_bitsandbytes_4_bit_loading_is_refused(base: BaseModel) -> None:
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(BackendError, match="bitsandbytes is not installed") as caught:
        with_adapter("transformers", base, TrainingParams(load_in_4bit=True))
    assert "pip install -e '.[nf4]'" in caught.value.fix


def test_attention_and_all_linear_reach_the_model(base: BaseModel) -> None:
    params = TrainingParams(attention="eager", dtype="bfloat16", lora=LoraParams(r=4, target_modules="all-linear"))
    model = with_adapter("transformers", base, params)
    assert model.config._attn_implementation == "eager"
    assert {str(p.dtype) for p in model.parameters() if not p.requires_grad} == {"torch.bfloat16"}
    adapted = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == set(LoraParams().target_modules)
    assert model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] == 32 / 4
    stabilised = params.model_copy(update={"lora": LoraParams(r=4, rslora=True)})
    scaled = with_adapter("transformers", base, stabilised).base_model.model.model.layers[0].self_attn.q_proj
    assert scaled.scaling["default"] == 32 / 2  # alpha / sqrt(r)


@pytest.mark.gpu
def test_unsloth_trains_the_same_way(tmp_path: Path, base: BaseModel) -> None:
    if not backends.cuda() or importlib.util.find_spec("unsloth") is None:
        pytest.skip("needs a CUDA device and unsloth")
    params = PARAMS.model_copy(update={"backend": "unsloth"})
    adapter, state = train_lora(base, records(24), records(4, 100), tmp_path, params, lambda *_: None)
    losses = [entry["loss"] for entry in state["history"] if "loss" in entry]
    assert losses[-1] < losses[0] - 0.2
    assert state["backend"] == "unsloth"
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {f.name for f in adapter.iterdir()}
