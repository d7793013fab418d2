"""Checkpoints: half of one is set aside, and what somebody laid beside them is left alone."""

import io
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from odin_slm.core.errors import BackendError
from odin_slm.models.base_model import BaseModel
from odin_slm.training import checkpoints
from odin_slm.training.lora import train_lora
from training.test_training import SHORT, records, stopped_at

LIMITED = SHORT.model_copy(update={"save_total_limit": 1})


def whole(folder: Path) -> Path:
    """Make a checkpoint that a run can resume from."""
    folder.mkdir(parents=True)
    stream = io.BytesIO()
    torch.save({}, stream)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(stream.getvalue())
    (folder / "adapter_model.safetensors").write_bytes(save({"a": torch.zeros(2)}))
    (folder / "trainer_state.json").write_text('{"global_step": 2}')
    return folder


def test_a_run_killed_twice_at_the_same_checkpoint_resumes(tmp_path: Path) -> None:
    checkpoints.prepare(tmp_path, "job", {}, resume=False)
    complete = whole(tmp_path / "checkpoints/checkpoint-2")
    for attempt in ("first", "second"):
        cut = tmp_path / "checkpoints/checkpoint-4"
        cut.mkdir()
        (cut / attempt).touch()
        checkpoints.prepare(tmp_path, "job", {}, resume=True)
        assert checkpoints.newest(tmp_path) == complete
        assert [file.name for file in (tmp_path / "checkpoints/incomplete-checkpoint-4").iterdir()] == [attempt]


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth", "adapter_model.safetensors", "trainer_state.json"])
def test_a_checkpoint_with_half_a_file_is_incomplete(tmp_path: Path, file: str) -> None:
    half = whole(tmp_path / "checkpoints/checkpoint-4") / file
    half.write_bytes(half.read_bytes()[:-8])
    assert checkpoints.newest(tmp_path) is None


@pytest.mark.parametrize("made", ["optimizer.bin", "optimizer_0/.metadata", "latest"])
def test_a_checkpoint_of_fsdp_or_deepspeed_counts_when_its_state_is_there(tmp_path: Path, made: str) -> None:
    checkpoints.prepare(tmp_path, "job", {}, resume=False)
    folder = tmp_path / "checkpoints/checkpoint-4"
    (folder / made).parent.mkdir(parents=True)
    (folder / made).touch()
    assert checkpoints.newest(tmp_path) is None, "the Trainer's state is written last"
    (folder / "trainer_state.json").write_text("{}")
    checkpoints.prepare(tmp_path, "job", {}, resume=True)
    assert checkpoints.newest(tmp_path) == folder


def test_what_a_resumed_run_sets_aside_is_kept_until_a_fresh_one(tmp_path: Path) -> None:
    checkpoints.prepare(tmp_path, "job", {}, resume=False)
    (tmp_path / "checkpoints/checkpoint-4").mkdir(parents=True)
    for _ in range(2):
        checkpoints.prepare(tmp_path, "job", {}, resume=True)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["incomplete-checkpoint-4"]
    checkpoints.prepare(tmp_path, "job", {}, resume=False)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_steps_of_another_size_do_not_go_on(tmp_path: Path) -> None:
    checkpoints.prepare(tmp_path, "job", {"batch_size": 2, "gradient_accumulation_steps": 4}, resume=False)
    whole(tmp_path / "checkpoints/checkpoint-4")
    found = checkpoints.as_noted(tmp_path, SHORT.model_copy(update={"batch_size": 8}))
    assert (found.batch_size, found.gradient_accumulation_steps) == (2, 4), "a batch that was halved stays so"
    each = SHORT.model_copy(update={"batch_size": 4, "launcher": "accelerate"})
    assert checkpoints.as_noted(tmp_path, each).batch_size == 2, "two processes may be meant"
    for wrong in ({"batch_size": 32}, {"batch_size": 4}, {"batch_size": 3, "launcher": "accelerate"}):
        with pytest.raises(BackendError, match=r"are of steps of 8 examples, and batch_size times accumulation is"):
            checkpoints.as_noted(tmp_path, SHORT.model_copy(update=wrong))


def test_only_numbers_count_and_the_rest_stays(tmp_path: Path) -> None:
    work = tmp_path / "work"
    folder = work / "checkpoints"
    checkpoints.prepare(work, "job", {}, resume=False)
    folder.mkdir()
    own = ["best", "007", "12.tmp", "5-copy", "-3", "1e3", "٣", ""]
    for name in own:
        whole(folder / f"checkpoint-{name}")
    (folder / "checkpoint-notes").write_text("kept by hand")
    (folder / "checkpoint-away").symlink_to(tmp_path / "nowhere")
    left = {path.name for path in folder.iterdir()}
    assert checkpoints.newest(work) is None
    elsewhere = whole(tmp_path / "disk/checkpoint")
    for step in (2, 10, 9):
        whole(folder / f"checkpoint-{step}")
    (folder / "checkpoint-11").symlink_to(elsewhere)  # on another disk
    (folder / "checkpoint-13").write_text("a file")
    assert (found := checkpoints.newest(work))
    assert checkpoints.step_of(found) == 11
    checkpoints.prepare(work, "job", {}, resume=True)
    assert (folder / "incomplete-checkpoint-13").is_file(), "or saving step 13 would fail"
    checkpoints.rotate(work, 3, {"checkpoint-11", "checkpoint-2"})
    assert {path.name for path in folder.iterdir()} - left == {
        *("checkpoint-2", "checkpoint-10", "checkpoint-11", "incomplete-checkpoint-13")
    }
    checkpoints.prepare(work, "job", {}, resume=False)
    assert {path.name for path in folder.iterdir()} == left
    assert (elsewhere / "optimizer.pt").is_file(), "a link is removed, not what it points to"


@pytest.mark.slow
def test_a_renamed_copy_survives_fresh_and_resumed_trainings(tiny_base: Path, tmp_path: Path) -> None:
    base, data = BaseModel("tiny", tiny_base), (records(8), records(4, 100))
    stopped_at(5, base, tmp_path)
    best = tmp_path / "checkpoints/checkpoint-best"
    (tmp_path / "checkpoints/checkpoint-4").rename(best)
    os.utime(best, (0, 0))  # the oldest: the Trainer's own rotation would take it first
    for resume in (False, True):
        params = LIMITED.model_copy(update={"resume": resume})
        _, state = train_lora(base, *data, tmp_path, params, lambda *_: None)
        assert state["resumed_from_step"] == (state["best_step"] if resume else None)
        assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()} == {
            *("checkpoint-best", f"checkpoint-{state['best_step']}")
        }
    assert (best / "optimizer.pt").is_file()
