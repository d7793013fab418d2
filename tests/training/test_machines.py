"""Training on two machines, each a network namespace: as one process, without a machine, and on with others."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from networks import Network, address, machines_on_a_switch
from odin_slm.config.parameters import LoraParams, TrainingParams
from odin_slm.core.errors import BackendError, MachineLostError, OdinError, RecordTooLongError, error_of
from odin_slm.models.base_model import BaseModel
from odin_slm.training import checkpoints
from odin_slm.training.launcher import join, launch
from odin_slm.training.lora import train_lora
from odin_slm.training.machines import Link, Machines, machines_of
from odin_slm.training.work_folders import place_below
from training.test_checkpoints import whole
from training.test_training import Killed, records

PARAMS = TrainingParams(
    **{"max_seq_length": 400, "epochs": 4, "batch_size": 2, "logging_steps": 1, "evaluations": 4, "precision": "fp32"},
    **{"learning_rate": 0.01, "lora": LoraParams(r=4), "generation_samples": 1},
)
ALONE = PARAMS.model_copy(update={"gradient_accumulation_steps": 4})
TWO = PARAMS.model_copy(update={"launcher": "accelerate"})
TRAIN = [{**record, "input": record["input"] * (1 + n % 3)} for n, record in enumerate(records(14))]
VALIDATION = records(5, 100)
RUN = """
import json, sys
from pathlib import Path
from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import OdinError
from odin_slm.models.base_model import BaseModel
from odin_slm.training.launcher import join
from odin_slm.training.lora import train_lora

job = json.loads(sys.argv[1])
base, work = BaseModel("tiny", Path(job["base"])), Path(job["work"])
params = TrainingParams.model_validate(job["params"])
try:
    if params.machine_rank:
        join(base, work, params)
        print(json.dumps("joined"), flush=True)
    else:
        data = json.loads(sys.stdin.read())
        say = lambda step, figures: print(json.dumps({"step": step, **figures}), flush=True)
        print(json.dumps(train_lora(base, *data, work, params, say)[1]), flush=True)
except OdinError as error:
    print(json.dumps([type(error).__name__, str(error)]), flush=True)
    sys.exit(1)
"""


def start(network: Network, machine: int, base: Path, work: Path, params: TrainingParams) -> subprocess.Popen[str]:
    """Start the training on one of the machines."""
    job = {"base": str(base), "work": str(work), "params": params.model_dump(mode="json")}
    process = subprocess.Popen(
        [*network.at(machine), sys.executable, "-c", RUN, json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps([TRAIN, VALIDATION]) if machine == 0 else "")
    process.stdin.close()
    return process


@pytest.fixture
def network() -> Iterator[Network]:
    with machines_on_a_switch(2) as found:
        yield found


@pytest.fixture
def hosts(tmp_path: Path) -> Callable[..., Path]:
    """Write accelerate's configuration of two machines, with other values where they are named."""

    def write(**other: Any) -> Path:
        values = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "use_cpu": True}
        values |= {"num_machines": 2, "num_processes": 4, "machine_rank": 0}
        values |= {"main_process_ip": address(0), "main_process_port": 29500} | other
        file = tmp_path / "hosts.yaml"
        file.write_text(json.dumps(values))
        return file

    return write


def figures(entries: list[dict[str, Any]], key: str) -> dict[int, float]:
    return {entry["step"]: entry[key] for entry in entries if key in entry}


@pytest.fixture(scope="module")
def alone(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What one process makes of the same steps."""
    work = tmp_path_factory.mktemp("alone")
    return train_lora(BaseModel("tiny", tiny_base), TRAIN, VALIDATION, work, ALONE, lambda *_: None)


def assert_close(found: Path, expected: Path) -> None:
    import torch
    from safetensors.torch import load_file

    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (found, expected))
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-2)


@pytest.mark.timeout(600)
def test_two_machines_match_one_process_until_one_is_lost_and_the_other_goes_on_alone(
    network: Network, hosts: Callable[..., Path], alone: tuple[Path, dict[str, Any]], tiny_base: Path, tmp_path: Path
) -> None:
    works = [tmp_path / str(machine) / "training" for machine in range(2)]
    two = TWO.model_copy(update={"accelerate_config": hosts()})
    first, second = (
        start(network, n, tiny_base, works[n], two.model_copy(update={"machine_rank": n})) for n in range(2)
    )
    logged: list[dict[str, Any]] = []
    for line in first.stdout or ():
        logged.append(json.loads(line))
        if logged[-1].get("step") == 5:
            break
    network.kill(1)
    killed = time.monotonic()
    *late, (kind, told) = [json.loads(line) for line in first.stdout or ()]
    assert time.monotonic() - killed < 30
    assert (first.wait(), second.wait()) == (1, -signal.SIGKILL)
    assert (kind, told[:28]) == ("MachineLostError", "training: machine 1 is lost:")
    for key in ("loss", "grad_norm", "eval_loss"):
        found, expected = figures([*logged, *late], key), figures(alone[1]["history"], key)
        assert found == pytest.approx({step: expected[step] for step in found}, rel=1e-4)
        assert len(found) >= (2 if key == "eval_loss" else 5)

    assert [checkpoints.newest(work) for work in works] == [work / "checkpoints/checkpoint-4" for work in works]
    resumed = PARAMS.model_copy(update={"resume": True})
    data = TRAIN, VALIDATION, works[1]
    adapter, state = train_lora(BaseModel("tiny", tiny_base), *data, resumed, lambda *_: None)
    assert (state["processes"], state["resumed_from_step"], state["steps"]) == (1, 4, 8)
    assert figures(state["history"], "loss") == pytest.approx(figures(alone[1]["history"], "loss"), rel=1e-3)
    assert_close(adapter, alone[0])


@pytest.mark.timeout(600)
def test_another_machine_joins_a_run_that_goes_on_and_receives_its_checkpoint(
    network: Network, hosts: Callable[..., Path], alone: tuple[Path, dict[str, Any]], tiny_base: Path, tmp_path: Path
) -> None:
    works = [tmp_path / str(machine) / "training" for machine in range(2)]

    all_kept = {"save_total_limit": 4}

    def kill(step: int, _: dict[str, float]) -> None:
        if step == 5:
            raise Killed

    before = ALONE.model_copy(update=all_kept)
    with pytest.raises(Killed):
        train_lora(BaseModel("tiny", tiny_base), TRAIN, VALIDATION, works[0], before, kill)
    two = TWO.model_copy(update={"accelerate_config": hosts(num_processes=2), "resume": True, **all_kept})
    started = [start(network, n, tiny_base, works[n], two.model_copy(update={"machine_rank": n})) for n in range(2)]
    *_, state = [json.loads(line) for line in started[0].stdout or ()]
    assert [json.loads(line) for line in started[1].stdout or ()] == ["joined"]
    assert [process.wait() for process in started] == [0, 0]
    assert (state["processes"], state["resumed_from_step"], state["steps"]) == (2, 4, 8)
    assert state["hyperparameters"]["gradient_accumulation_steps"] == 2
    for key in ("loss", "eval_loss"):
        assert figures(state["history"], key) == pytest.approx(figures(alone[1]["history"], key), rel=1e-3)
    assert_close(works[0] / "adapter", alone[0])
    assert not (works[1] / "adapter").exists()
    assert checkpoints.newest(works[1]) == works[1] / "checkpoints/checkpoint-8"
    best = json.loads((works[1] / "checkpoints/checkpoint-4/trainer_state.json").read_text())["best_model_checkpoint"]
    assert best == str(works[1] / "checkpoints/checkpoint-4")


def test_a_configuration_that_several_machines_cannot_follow_is_refused(hosts: Callable[..., Path]) -> None:
    def found(machine_rank: int | None = None, **other: Any) -> Machines | None:
        return machines_of(TWO.model_copy(update={"accelerate_config": hosts(**other), "machine_rank": machine_rank}))

    assert found(num_machines=1) is None
    for name in ("num_machines", "main_process_port"):
        with pytest.raises(BackendError, match=rf"{name} is 'two', expected a whole number"):
            found(**{name: "two"})
    assert found() == Machines(2, 0, address(0), 29500, 4)
    assert found(machine_rank=1) == Machines(2, 1, address(0), 29500, 4)
    for wrong, message in (
        ({"main_process_ip": None, "main_process_port": None}, "need main_process_ip, main_process_port"),
        ({"machine_rank": 2}, "no machine 2 among 2"),
        ({"num_processes": 5}, "cannot share 5 processes"),
    ):
        with pytest.raises(BackendError, match=message):
            found(**wrong)
    file = hosts()
    file.write_text("- a list")
    with pytest.raises(BackendError, match="no configuration of accelerate"):
        machines_of(TWO.model_copy(update={"accelerate_config": file}))


def test_each_machine_has_its_command(hosts: Callable[..., Path], tmp_path: Path) -> None:
    base = BaseModel("tiny", None)
    two = TWO.model_copy(update={"accelerate_config": hosts()})
    with pytest.raises(BackendError, match="only machines after the first"):
        join(base, tmp_path, two)
    second = two.model_copy(update={"machine_rank": 1})
    with pytest.raises(BackendError, match="the first one trains") as caught:
        launch(base, TRAIN, VALIDATION, tmp_path, second, lambda *_: None, "transformers")
    assert "--pipelines join_training" in caught.value.fix


def test_joining_is_no_tracked_run(run: Callable[..., Any]) -> None:
    import mlflow

    with pytest.raises(BackendError, match="only machines after the first"):
        run("join_training")
    client = mlflow.MlflowClient()
    assert not client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


@pytest.fixture
def links() -> Iterator[tuple[Link, Link]]:
    """Two machines of one process each, in this process."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    first, second = (Link(store, rank, rank, 2, speaks=True) for rank in range(2))
    yield first, second
    for link in (first, second):
        link.give_up(RuntimeError("the test is over"))


def test_a_machine_that_falls_silent_is_lost(links: tuple[Link, Link]) -> None:
    lost: queue.Queue[OdinError] = queue.Queue()
    first, second = links
    second.watch(lost.put, silence=60)
    first.watch(lost.put, silence=3)
    with pytest.raises(queue.Empty):
        lost.get(timeout=4)
    second.give_up(ValueError("its signs of life end"))
    found = lost.get(timeout=10)
    assert isinstance(found, MachineLostError)
    assert "machine 1 is lost" in str(found)
    assert "training.resume=true" in found.fix


def test_a_broken_connection_has_the_cause_that_another_process_told(links: tuple[Link, Link]) -> None:
    first, second = links
    second.give_up(RecordTooLongError("2 of 2 records exceed 20 tokens.", where="max_seq_length", fix="Raise it."))
    second.give_up(BackendError("what followed from it."))
    assert first.cause_of(ValueError("a defect of its own")) is None
    found = first.cause_of(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.77.0.2]:4711"))
    assert isinstance(found, RecordTooLongError)
    assert str(found).startswith("max_seq_length: 2 of 2 records exceed 20 tokens. This is what machine 1 says.")
    with pytest.raises(RecordTooLongError):
        first.receive()


def test_a_job_reaches_the_other_machine_and_its_end_is_awaited(links: tuple[Link, Link]) -> None:
    first, second = links
    job = {"train": [os.urandom(2**16).hex() for _ in range(160)]}  # 20 MiB, in several values of the store
    first.hand_out(job)
    assert second.receive() == job
    closing = threading.Thread(target=second.close)
    closing.start()
    closing.join(2)
    assert closing.is_alive(), "the first machine has not saved the result yet"
    first.close()
    closing.join(10)
    assert not closing.is_alive()


@pytest.mark.parametrize(("processes", "batch", "accumulation"), [(1, 2, 4), (2, 2, 2), (8, 1, 1), (4, 2, 1)])
def test_another_number_of_processes_shares_the_same_steps(
    tmp_path: Path, processes: int, batch: int, accumulation: int
) -> None:
    prepared(tmp_path)
    params = PARAMS.model_copy(update={"resume": True})
    shared = checkpoints.shared_out(tmp_path, params, processes)
    assert (shared.batch_size, shared.gradient_accumulation_steps) == (batch, accumulation)


def test_a_number_of_processes_that_does_not_divide_a_step_is_refused(tmp_path: Path) -> None:
    prepared(tmp_path)
    assert checkpoints.shared_out(tmp_path, PARAMS, 3) == PARAMS, "a new run has steps of its own"
    with pytest.raises(BackendError, match="8 examples, which 3 processes cannot share evenly") as caught:
        checkpoints.shared_out(tmp_path, PARAMS.model_copy(update={"resume": True}), 3)
    assert "divides 8" in caught.value.fix


def test_another_machine_writes_nothing_outside_the_checkpoints(tmp_path: Path) -> None:
    assert place_below(tmp_path, "checkpoint-4/optimizer.pt") == tmp_path.resolve() / "checkpoint-4/optimizer.pt"
    for name in ("../elsewhere", "/etc/elsewhere", "checkpoint-4/../../elsewhere"):
        with pytest.raises(BackendError, match="lies outside"):
            place_below(tmp_path, name)


def test_another_process_can_tell_of_errors_alone() -> None:
    lost = MachineLostError("machine 1 is lost.", where="training", fix="Go on.")
    assert type(error_of(lost.to_dict())) is MachineLostError
    assert error_of(lost.to_dict()).to_dict() == lost.to_dict()
    assert type(error_of({**lost.to_dict(), "kind": "partial"})) is OdinError


def prepared(work: Path) -> None:
    checkpoints.prepare(work, "job", {"batch_size": 2, "gradient_accumulation_steps": 1}, 4, resume=False)
    whole(work / "checkpoints/checkpoint-2")
