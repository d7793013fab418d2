"""Full fine-tuning: all weights are trained, by the same loop, into a whole model that needs no base."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import BackendError, BaseModelError
from odin_slm.core.record import full_text
from odin_slm.inference.generation import generate
from odin_slm.inference.served_model import resolve_model
from odin_slm.models import backends, memory, preflight
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.release.cards import read_front_matter
from odin_slm.tasks import load
from odin_slm.training.lora import train_lora
from training.test_training import Killed, records

PARAMS = TrainingParams(
    **{"method": "full", "max_seq_length": 400, "epochs": 4, "batch_size": 4, "logging_steps": 1, "evaluations": 4},
    **{"learning_rate": 0.003, "lora": LoraParams(target_modules=("no_such_layer",), dropout=0.5)},
)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


def train(base: BaseModel, work: Path, params: TrainingParams, on_log: Any = lambda *_: None) -> Any:
    return train_lora(base, records(8), records(4, 100), work, params, on_log, load({"name": "extraction"}))


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def straight(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted run of 8 steps, with checkpoints after 2, 4, 6 and 8."""
    return train(base, tmp_path_factory.mktemp("straight"), PARAMS)


def test_the_outcome_is_a_whole_model_that_learned(base: BaseModel, straight: tuple[Path, dict[str, Any]]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder, state = straight
    losses = [entry["loss"] for entry in state["history"] if "loss" in entry]
    assert losses[-1] < losses[0] - 0.2
    assert state["trainable_parameters"] == state["all_parameters"] > 0
    assert "lora" not in state["hyperparameters"]
    assert state["cpu_step"] != backends.cuda()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    assert not list(folder.glob("adapter_*"))
    for file in ("config.json", "tokenizer_config.json"):
        assert str(base.path) not in (folder / file).read_text()
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    before = load_model(base)
    assert all((one != two).any() for one, two in zip(plain.parameters(), before.parameters(), strict=True))
    prompts = [full_text(record)[0] for record in records(2, 100)]
    outputs = generate(base, folder, prompts, batch_size=2, max_new_tokens=8)
    assert outputs == generate(BaseModel("it", folder), None, prompts, batch_size=2, max_new_tokens=8)
    tokenizer = load_tokenizer(base)
    ids = tokenizer(prompts[0], return_tensors="pt", add_special_tokens=False)["input_ids"]
    written = plain.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True) == outputs[0].text


@pytest.mark.parametrize("step", [1, 5])
def test_a_killed_run_ends_in_the_same_weights(
    base: BaseModel, tmp_path: Path, straight: tuple[Path, dict[str, Any]], step: int
) -> None:
    def kill(now: int, _: dict[str, float]) -> None:
        if now == step:
            raise Killed

    with pytest.raises(Killed):
        train(base, tmp_path, PARAMS, kill)
    other_lora = PARAMS.model_copy(update={"resume": True, "lora": LoraParams(r=8)})  # which full ignores
    folder, state = train(base, tmp_path, other_lora)
    assert state["resumed_from_step"] == (step - 1 or None)
    one, two = weights(folder), weights(straight[0])
    assert all((one[name] == two[name]).all() for name in two)


def test_weight_decay_leaves_norms_alone(base: BaseModel, tmp_path: Path) -> None:
    decaying = PARAMS.model_copy(
        update={"learning_rate": 1e-4, "weight_decay": 5e3, "warmup_steps": 0, "scheduler": "constant"}
    )
    folder, _ = train(base, tmp_path, decaying.model_copy(update={"load_best_model_at_end": False}))
    before = {name: value.detach() for name, value in load_model(base).named_parameters()}
    for name, value in weights(folder).items():
        ratio = float(value.norm() / before[name].norm())
        assert (0.99 < ratio < 1.01) if "norm" in name else ratio < 0.1, name


def test_the_task_may_choose_among_whole_models(base: BaseModel, tmp_path: Path) -> None:
    last = PARAMS.model_copy(update={"load_best_model_at_end": False})
    scored, state = train(base, tmp_path / "task", last.model_copy(update={"metric_for_best_model": "task"}))
    alone, _ = train(base, tmp_path / "loss", last)
    assert state["task_metric"]["records"] == 4
    one, two = weights(scored), weights(alone)
    assert all((one[name] == two[name]).all() for name in one)


def test_what_cannot_be_trained_in_full_is_refused(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="load_in_4bit to false, or method to lora"):
        TrainingParams(method="full", load_in_4bit=True)
    folder = tmp_path / "quantised"
    folder.mkdir()
    config = json.loads((base.path / "config.json").read_text()) if base.path else {}
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    with pytest.raises(BackendError, match="quantised, and its weights cannot be trained"):
        preflight.check(BaseModel("quantised", folder), PARAMS)


def test_memory_holds_gradients_and_moments_of_all_weights(base: BaseModel) -> None:
    found = preflight.check(base, PARAMS)
    count = sum(p.numel() for p in load_model(base).parameters())
    assert found.trainable == found.parameters == count
    alone = memory.estimate(preflight.shape_of(preflight.read_config(base), base)[0], replace(found.job, workers=0))
    assert (alone.weights, alone.adapter, alone.gradients, alone.optimizer) == (4 * count, 0, 4 * count, 8 * count)
    ways = memory.alternatives(
        preflight.shape_of(preflight.read_config(base), base)[0], replace(found.job, device="cuda"), 2**40, count=9
    )
    assert not any("load_in_4bit" in way.changes for way in ways)


def test_a_cut_off_whole_model_is_refused(
    base: BaseModel, tmp_path: Path, straight: tuple[Path, dict[str, Any]]
) -> None:
    import shutil

    folder = Path(shutil.copytree(straight[0], tmp_path / "cut"))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(BaseModelError, match="not a whole safetensors file"):
        generate(base, folder, ["x"], batch_size=1, max_new_tokens=1)


def test_a_whole_model_is_evaluated_staged_registered_and_served(
    project: Path, run: Callable[..., dict[str, Any]]
) -> None:
    import mlflow
    from transformers import AutoModelForCausalLM

    evaluation = {"num_samples": 6, "max_new_tokens": 24, "bootstrap_resamples": 100}
    run(params={"training": {"method": "full", "learning_rate": 1e-3}, "evaluation": evaluation})
    release = project / "data/08_reporting/test/release/model"
    names = {file.relative_to(release).as_posix() for file in release.rglob("*") if file.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "LICENSE", "task.json", "SHA256SUMS"} <= names
    assert not [name for name in names if name.startswith(("base/", "adapter"))]
    card = (release / "README.md").read_text(encoding="utf-8")
    front = read_front_matter(card)
    assert (front["library_name"], front["base_model_relation"]) == ("transformers", "finetune")
    assert "lora" not in front["tags"]
    assert "A whole model, fully fine-tuned from" in card
    assert "PeftModel" not in card
    assert "| method | full |" in card
    assert AutoModelForCausalLM.from_pretrained(release).num_parameters() > 0
    served = resolve_model(str(release), root=project)
    assert (served.adapter, served.base.path) == (None, release)
    assert served.metrics
    registered = resolve_model("models:/odin-medical-ner-re-test/1", root=project)
    assert (registered.adapter, registered.schema != "") == (None, True)
    assert registered.base.path is not None
    assert (registered.base.path / "model.safetensors").read_bytes() == (release / "model.safetensors").read_bytes()
    answers = mlflow.pyfunc.load_model("models:/odin-medical-ner-re-test/1").predict(
        ["Nausea after aspirin."], params={"max_new_tokens": 8}
    )
    assert list(answers.columns) == ["entities", "relations", "finished", "error"]
    # exported in 16 bit, and asked again
    run("publishing", params={"publishing": {"export": "merged", "export_tolerance": 1.0}, "evaluation": evaluation})
    merged = json.loads((project / "data/08_reporting/test/merged/merging.json").read_text())
    assert merged["dtype"] == "bfloat16"
