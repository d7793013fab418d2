"""An adapter is trained further: from its own weights, of the same settings, and with what it learned on record."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import AdapterError, BackendError, BaseModelError
from odin_slm.core.record import Record
from odin_slm.models.base_model import BaseModel
from odin_slm.training.initial_adapter import describe_initial
from odin_slm.training.lora import train_lora

PARAMS = TrainingParams(
    max_seq_length=400,
    epochs=3,
    batch_size=4,
    logging_steps=1,
    evaluations=3,
    learning_rate=0.01,
    generation_samples=0,
    lora=LoraParams(r=4),
)


def records(count: int, start: int = 0) -> list[Record]:
    return [
        Record(
            instruction="Extract entities: Drug.",
            input=f"Patient {n} had aspirin.",
            output="### Entities:\n1. [Drug] aspirin\n\n### Relations:\nNone",
            id=f"ade-{n}",
            source="ade",
            document_id=f"ade-{n}",
        )
        for n in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


def train(base: BaseModel, work: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    params = PARAMS.model_copy(update=settings)
    return train_lora(base, records(8), records(4, 100), work, params, lambda *_: None)


@pytest.fixture(scope="module")
def first(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An adapter and the state of its training."""
    return train(base, tmp_path_factory.mktemp("first"))


def losses(state: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in state["history"] if "loss" in entry]


def test_training_goes_on_from_the_weights_of_the_adapter(
    base: BaseModel, tmp_path: Path, first: tuple[Path, dict[str, Any]]
) -> None:
    from safetensors.torch import load_file

    # A rate of next to nothing leaves the adapter as it is, so its validation loss is the first training's.
    still, state = train(base, tmp_path / "still", from_adapter=first[0], learning_rate=1e-6)
    assert state["best_eval_loss"] == pytest.approx(first[1]["best_eval_loss"], rel=1e-3)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first[0], still))
    assert all((before[name] - after[name]).abs().max() < 1e-4 for name in before)
    _, state = train(base, tmp_path / "further", from_adapter=first[0])
    assert losses(state)[0] < losses(first[1])[0] - 0.1
    assert state["best_eval_loss"] < first[1]["best_eval_loss"]
    assert state["from_adapter"] == {"adapter_sha256": state["from_adapter"]["adapter_sha256"], "learned": None}
    assert str(first[0]) not in json.dumps(state)
    assert "from_adapter" not in first[1]


def test_a_run_from_another_adapter_is_not_resumed(
    base: BaseModel, tmp_path: Path, first: tuple[Path, dict[str, Any]]
) -> None:
    train(base, tmp_path / "run", from_adapter=first[0])
    again = {"from_adapter": first[0], "resume": True}
    assert train(base, tmp_path / "run", **again)[1]["resumed_from_step"] == 6
    with pytest.raises(BackendError, match="other data, other parameters or another base"):
        train(base, tmp_path / "run", resume=True)


def test_what_the_adapter_learned_is_read_from_its_folder(
    base: BaseModel, tmp_path: Path, first: tuple[Path, dict[str, Any]]
) -> None:
    folder = shutil.copytree(first[0], tmp_path / "adapter")
    learned = [{"train.json": "a", "val.json": "b"}]
    (folder / "task.json").write_text(json.dumps({"name": "extraction", "learned": learned}))
    found = describe_initial(base, PARAMS.model_copy(update={"from_adapter": folder}))
    assert found is not None
    assert found["learned"] == learned


def test_other_settings_are_named_with_the_way_out(
    base: BaseModel, tmp_path: Path, first: tuple[Path, dict[str, Any]]
) -> None:
    other = LoraParams(r=8, alpha=16, target_modules=("q_proj",))
    with pytest.raises(AdapterError, match=r"training\.lora\.r=4, training\.lora\.alpha=32, training\.lora\.target"):
        train(base, tmp_path, from_adapter=first[0], lora=other)


def test_weights_that_do_not_fit_are_refused(
    base: BaseModel, tmp_path: Path, first: tuple[Path, dict[str, Any]]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(first[0], tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name][:, :-1].contiguous()}, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="do not fit the base"):
        train(base, tmp_path / "work", from_adapter=folder)
    (folder / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(BaseModelError):
        train(base, tmp_path / "work", from_adapter=folder)
    with pytest.raises(AdapterError, match="not the configuration of an adapter"):
        train(base, tmp_path / "work", from_adapter=tmp_path / "nowhere")


def test_another_base_is_a_warning(
    base: BaseModel, first: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    params = PARAMS.model_copy(update={"from_adapter": first[0]})
    describe_initial(base, params)
    assert "have to be the same weights" not in caplog.text
    describe_initial(BaseModel("elsewhere", base.path), params)
    assert "names the base tiny, and this training has elsewhere" in caplog.text


def test_a_whole_model_is_no_adapter_to_go_on_from() -> None:
    with pytest.raises(ValidationError, match="name the whole model as base_model"):
        TrainingParams.model_validate({"method": "full", "from_adapter": "adapter"})


@pytest.mark.parametrize("pattern", ["alpha_pattern", "rank_pattern"])
def test_an_adapter_with_layers_of_their_own_rank_or_scale_is_refused(
    base: BaseModel, first: tuple[Path, dict[str, Any]], tmp_path: Path, pattern: str
) -> None:
    folder = Path(shutil.copytree(first[0], tmp_path / "adapter"))
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), pattern: {"q_proj": 2}}))
    with pytest.raises(AdapterError, match=f"it has a {pattern}"):
        describe_initial(base, PARAMS.model_copy(update={"from_adapter": folder}))
