"""The checkpoint that extracts best: chosen by the task's own figure, without any trace in the weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import BackendError
from odin_slm.core.record import Record, full_text
from odin_slm.inference.decoding.constrained_generate import constrained_generate
from odin_slm.inference.generation import Generator
from odin_slm.inference.reading import Question, ask
from odin_slm.models import backends
from odin_slm.models.base_model import BaseModel, load_model, load_tokenizer
from odin_slm.tasks import Task, load
from odin_slm.training.collation import Collator, tokenise
from odin_slm.training.lora import train_lora
from odin_slm.training.task_metric import TaskMetric, with_task_metric
from training.test_training import Killed, records

PARAMS = TrainingParams(
    **{"max_seq_length": 400, "epochs": 4, "batch_size": 4, "logging_steps": 1, "evaluations": 4},
    **{"learning_rate": 0.01, "lora": LoraParams(r=4), "metric_for_best_model": "task", "task_metric_samples": 3},
    precision="fp32",
)
KEY = "eval_entity_f1_micro"


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return BaseModel("tiny", tiny_base)


@pytest.fixture(scope="module")
def task() -> Task:
    return load({"name": "extraction"})


def train(base: BaseModel, work: Path, params: TrainingParams, task: Task | None, on_log: Any = lambda *_: None) -> Any:
    return train_lora(base, records(8), records(6, 100), work, params, on_log, task)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def straight(base: BaseModel, task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted run of 8 steps, scored after 2, 4, 6 and 8."""
    return train(base, tmp_path_factory.mktemp("straight"), PARAMS, task)


def test_the_figure_is_that_of_the_evaluation(
    base: BaseModel, task: Task, straight: tuple[Path, dict[str, Any]]
) -> None:
    adapter, state = straight
    scored = [entry for entry in state["history"] if KEY in entry]
    assert [entry["step"] for entry in scored] == [2, 4, 6, 8]
    kept = max(scored, key=lambda entry: float(entry[KEY]))
    assert (state["best_step"], state["best_eval_loss"]) == (kept["step"], kept["eval_loss"])
    metric = TaskMetric(task, records(6, 100), load_tokenizer(base), PARAMS, "transformers")
    assert {record["id"] for record in metric.records} < {record["id"] for record in records(6, 100)}
    questions = [Question(record["input"], record["instruction"], task) for record in metric.records]
    outputs = ask(base, adapter, questions, names=["", "", ""], batch_size=2, max_new_tokens=300)
    rows = [
        {**record, "gold": record["output"], "prediction": output.text}
        for record, output in zip(metric.records, outputs, strict=True)
    ]
    expected = task.headline_values(rows)["entity_f1_micro"]
    assert state["task_metric"] == {
        **{"name": "entity_f1_micro", "title": "entity F1", "records": 3},
        **{"value": pytest.approx(expected)},
    }


def test_scoring_by_the_task_leaves_no_trace_in_the_weights(base: BaseModel, task: Task, tmp_path: Path) -> None:
    last = PARAMS.model_copy(update={"load_best_model_at_end": False})
    dropping = last.model_copy(update={"lora": LoraParams(r=4, dropout=0.3)})  # draws random numbers at every step
    for params in (last, dropping):
        plain = params.model_copy(update={"metric_for_best_model": "eval_loss"})
        scored, state = train(base, tmp_path / "scored", params, task)
        alone, other = train(base, tmp_path / "alone", plain, task)
        assert weights(scored) == weights(alone)
        losses = [[e["loss"] for e in s["history"] if "loss" in e] for s in (state, other)]
        assert losses[0] == losses[1]
        assert KEY in str(state["history"])
        assert "task_metric" not in other
        assert state["cpu_step"] == other["cpu_step"] == (params is last and not backends.cuda())


@pytest.mark.parametrize("step", [3, 7])
def test_a_killed_run_goes_on_with_the_best_so_far(
    base: BaseModel, task: Task, tmp_path: Path, straight: tuple[Path, dict[str, Any]], step: int
) -> None:
    def kill(now: int, _: dict[str, float]) -> None:
        if now == step:
            raise Killed

    with pytest.raises(Killed):
        train(base, tmp_path, PARAMS, task, kill)
    adapter, state = train(base, tmp_path, PARAMS.model_copy(update={"resume": True}), task)
    assert state["resumed_from_step"] == step - 1
    assert weights(adapter) == weights(straight[0])
    assert (state["best_step"], state["task_metric"]) == (straight[1]["best_step"], straight[1]["task_metric"])
    other = PARAMS.model_copy(update={"resume": True, "task_metric_samples": 2})
    with pytest.raises(BackendError, match="other parameters"):
        train(base, tmp_path, other, task)


def test_stopping_early_counts_on_after_a_kill(base: BaseModel, task: Task, tmp_path: Path) -> None:
    flat = PARAMS.model_copy(update={"learning_rate": 1e-6, "early_stopping_patience": 2})

    def kill(now: int, _: dict[str, float]) -> None:
        if now == 5:
            raise Killed

    with pytest.raises(Killed):
        train(base, tmp_path, flat, task, kill)
    _, state = train(base, tmp_path, flat.model_copy(update={"resume": True}), task)
    assert len({entry[KEY] for entry in state["history"] if KEY in entry}) == 1
    assert (state["resumed_from_step"], state["steps"], state["best_step"]) == (4, 6, 2)
    assert state["stopped_early"]


def undecided_base(folder: Path, tiny: BaseModel) -> BaseModel:
    """A base that writes the format, and says None of every text with a chance of about 0.6."""
    import torch

    torch.manual_seed(0)
    model, tokenizer = load_model(tiny).train(), load_tokenizer(tiny)
    rows = tokenise(tokenizer, mixed(10, 0, empty=6), 400)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        batch = Collator(tokenizer.pad_token_id)(rows)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return BaseModel("undecided", folder)


def mixed(count: int, start: int, empty: int) -> list[Record]:
    nothing = "### Entities:\nNone\n\n### Relations:\nNone"
    return [{**record, "output": nothing} if n < empty else record for n, record in enumerate(records(count, start))]


def test_of_two_checkpoints_the_one_with_more_loss_and_more_f1_is_kept(
    base: BaseModel, task: Task, tmp_path: Path
) -> None:
    """Of ten validation texts four say nothing, and training shows only texts that say something.

    The first checkpoint still doubts, and reads nothing: little loss, no F1. The second is sure, and right six times:
    the four times that it is wrong cost it more than doubt did.
    """
    undecided = undecided_base(tmp_path / "base", base)
    params = PARAMS.model_copy(
        update={
            **{"max_steps": 20, "evaluations": 2, "warmup_steps": 20, "learning_rate": 0.01},
            **{"task_metric_samples": 10, "generation_samples": 0},
        }
    )
    kept = {}
    for name in ("eval_loss", "task"):
        chosen = params.model_copy(update={"metric_for_best_model": name})
        folder, state = train_lora(
            undecided, records(24, 50), mixed(10, 100, empty=4), tmp_path / name, chosen, lambda *_: None, task
        )
        kept[name] = (state["best_step"], weights(folder))
        for step in (10, 20):
            assert (weights(folder) == weights(tmp_path / name / f"checkpoints/checkpoint-{step}")) == (
                step == state["best_step"]
            )
    first, second = (entry for entry in state["history"] if KEY in entry)
    assert first["eval_loss"] < second["eval_loss"]
    assert first[KEY] < 0.1 < 0.5 < second[KEY]
    assert (kept["eval_loss"][0], kept["task"][0]) == (10, 20)
    assert state["task_metric"]["value"] == second[KEY]
    assert state["best_eval_loss"] == second["eval_loss"]


def test_a_run_that_diverges_keeps_what_could_be_read(base: BaseModel, task: Task, tmp_path: Path) -> None:
    update = {"max_steps": 3, "evaluations": 3, "warmup_steps": 0, "scheduler": "constant", "learning_rate": 1e3}
    _, state = train(base, tmp_path, PARAMS.model_copy(update={**update, "generation_samples": 0}), task)
    assert json.loads(json.dumps(state, allow_nan=False))["best_step"] == 1
    assert [entry["step"] for entry in state["history"] if KEY in entry] == [1]


def test_two_processes_share_the_records(base: BaseModel, task: Task, tmp_path: Path) -> None:
    update = {"max_steps": 4, "evaluations": 2, "generation_samples": 0}
    two = PARAMS.model_copy(update={**update, "batch_size": 2, "launcher": "accelerate", "num_processes": 2})
    _, shared = train(base, tmp_path / "2", two, task)
    _, alone = train(base, tmp_path / "1", PARAMS.model_copy(update=update), task)
    assert (shared["processes"], alone["processes"]) == (2, 1)
    figures = [[entry[KEY] for entry in state["history"] if KEY in entry] for state in (shared, alone)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
    assert shared["best_step"] == alone["best_step"]


def test_generate_of_transformers_is_held_as_our_engine_is(
    base: BaseModel, task: Task, straight: tuple[Path, dict[str, Any]]
) -> None:
    from peft import PeftModel

    tokenizer, asked = load_tokenizer(base), records(5, 100)
    model = PeftModel.from_pretrained(load_model(base), str(straight[0])).eval()
    prompts = [full_text(record)[0] for record in asked]
    grammars = [task.grammar(record["instruction"], record["input"]) for record in asked[:-1]] + [None]
    for budget in (4, 60):  # cut off, and long enough
        generator = Generator.of(model.get_base_model(), tokenizer)
        found: dict[int, str] = {}
        rows = generator.rows(prompts, max_new_tokens=budget, grammars=grammars)
        generator.write_all(rows, lambda output, found=found: found.update({output.index: output.text}), 2)
        held = constrained_generate(model, tokenizer, prompts, grammars, 2, budget)
        assert held == [found[index] for index in range(5)]
        assert all(text.startswith("### Entities:\n") for text in held[:-1])


def test_a_model_that_is_spread_over_processes_is_refused(base: BaseModel, task: Task, tmp_path: Path) -> None:
    class Sharded:
        is_fsdp_enabled, is_deepspeed_enabled = True, False

    metric = TaskMetric(task, records(2), load_tokenizer(base), PARAMS, "transformers")
    with pytest.raises(BackendError, match="spread over processes") as caught:
        with_task_metric(Sharded, metric)()
    assert "eval_loss" in caught.value.fix
    with pytest.raises(ValueError, match="needs the task"):
        train(base, tmp_path, PARAMS, None)
