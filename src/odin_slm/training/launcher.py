"""Training in separate processes: several under ``accelerate launch``, or one that must import unsloth first.

Kedro runs once for a training; other machines lend it their processes (:func:`join`). It hands a folder with the job
and the records to the processes, and reads the result or the error from it. Only the first process writes the adapter;
it reports its figures as lines on its standard output.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import BackendError, error_of
from odin_slm.core.record import Record
from odin_slm.models import backends
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks import Task
from odin_slm.training.machines import Machines, machines_of, read_config

logger = logging.getLogger(__name__)

FIGURES = "odin-slm figures: "
"""Prefix of a line with figures."""


def launch(
    base: BaseModel,
    train: Sequence[Record],
    validation: Sequence[Record],
    work: Path,
    params: TrainingParams,
    on_log: Callable[[int, dict[str, float]], None],
    backend: backends.Name,
    task: Task | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Train in separate processes; arguments and result are those of :func:`odin_slm.training.lora.train_lora`.

    Raises:
        OdinError: The error that a process raised, or a :class:`BackendError` if one ended without giving a reason.
    """
    machines = machines_of(params)
    if machines and machines.rank:
        raise BackendError(
            f"this is machine {machines.rank} of {machines.count}, and the first one trains.",
            where="training.machine_rank",
            fix="Lend this one to it: kedro run --pipelines join_training, with the same parameters.",
        )
    job = {
        "params": params.model_dump(mode="json"),
        "backend": backend,
        "task": task.to_dict() if task else None,
        **{"train": list(train), "validation": list(validation)},
    }
    if machines:
        logger.info("Waiting at %s:%d for all of %d machines.", machines.address, machines.port, machines.count)
    result = _run(job, base, work, params, machines, on_log)
    return Path(result["adapter"]), result["state"]


def join(base: BaseModel, work: Path, params: TrainingParams) -> None:
    """Lend this machine to a training that another one runs, until it is over.

    Args:
        base: The same base, on this machine.
        work: Folder for the checkpoints; on storage that the machines share it may be that of the first.
        params: ``accelerate_config``, ``machine_rank`` and ``num_processes``; all else comes from the first machine.

    Raises:
        OdinError: What ended the training; a :class:`MachineLostError` where a machine no longer answers.
    """
    machines = machines_of(params)
    if machines is None or machines.rank == 0:
        raise BackendError(
            "only machines after the first of several can join a training.",
            where="training.accelerate_config",
            fix="Set num_machines and machine_rank in that file; the first machine runs the pipeline training.",
        )
    place = f"{machines.address}:{machines.port}"
    logger.info("Joining the training at %s as machine %d of %d.", place, machines.rank, machines.count)
    _run({}, base, work, params, machines, lambda *_: None)
    logger.info("The training is over, and the first machine has the result.")


def _run(
    job: Mapping[str, Any],
    base: BaseModel,
    work: Path,
    params: TrainingParams,
    machines: Machines | None,
    on_log: Callable[[int, dict[str, float]], None],
) -> dict[str, Any]:
    """Run the processes of this machine to the end; return what the first of all left, or raise what one did."""
    here = {"source": base.source, "path": str(base.path) if base.path else None, "revision": base.revision}
    with tempfile.TemporaryDirectory(prefix="odin-slm-") as name:
        folder = Path(name)
        written = json.dumps({**job, "base": here, "work": str(work.absolute())})
        (folder / "job.json").write_text(written, encoding="utf-8")
        command = [*_launcher(params, machines), "-m", "odin_slm.training.worker", name]
        code = _processes(command, on_log, machines)
        told = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("error-*.json"))]
        if told:
            raise error_of(told[0])
        if code:
            raise BackendError(
                f"the training processes ended with status {code}.",
                where="training.launcher",
                fix="See their messages above, or set training.launcher=none to train in one process.",
            )
        result = folder / "result.json"
        return json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}


def _launcher(params: TrainingParams, machines: Machines | None) -> list[str]:
    if params.launcher == "none":
        return [sys.executable]
    # accelerate's launcher for CPUs needs mpirun. The one for GPUs starts torch's, which serves CPUs as well.
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if params.accelerate_config:
        command += ["--config_file", str(params.accelerate_config)]
        command += ["--num_processes", str(params.num_processes)] if params.num_processes else []
        if machines:
            command += ["--machine_rank", str(machines.rank), "--rdzv_backend", "static"]
        kind = read_config(params.accelerate_config).get("distributed_type")
        return [*command, *(["--multi_gpu"] if kind == "MULTI_CPU" or (machines and kind == "NO") else [])]
    import torch

    count = params.num_processes or max(1, torch.cuda.device_count())
    if backends.cuda() and count > torch.cuda.device_count():
        raise BackendError(
            f"{count} processes need {count} CUDA devices, but there are {torch.cuda.device_count()}.",
            where="training.num_processes",
            fix="Lower it, or leave it null.",
        )
    kind = ["--multi_gpu"] if count > 1 else []
    options = {
        "--num_processes": count,
        "--num_machines": 1,
        "--mixed_precision": "no",  # the worker sets it in its training arguments
        "--dynamo_backend": "no",
        "--main_process_port": _free_port(),
    }
    return [*command, *kind, *(str(word) for pair in options.items() for word in pair)]


def _processes(
    command: Sequence[str], on_log: Callable[[int, dict[str, float]], None], machines: Machines | None
) -> int:
    """Run the processes to the end and pass their figures on; terminate them if this one is interrupted."""
    source = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "ACCELERATE_USE_CPU": "false" if backends.cuda() else "true",
    }
    if machines:
        # When one machine ends before another, torch's launcher reports a broken connection even after a success.
        environment = {"LOGLEVEL": "CRITICAL", "TORCH_CPP_LOG_LEVEL": "ERROR"} | environment
        if interface := machines.interface:
            environment = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface} | environment
    logger.info("Training in separate processes.")
    process = subprocess.Popen(list(command), stdout=subprocess.PIPE, text=True, env=environment)
    try:
        for line in process.stdout or ():
            if line.startswith(FIGURES):
                values = json.loads(line.removeprefix(FIGURES))
                on_log(values["step"], values["figures"])
            elif line.strip():
                logger.info("%s", line.rstrip())
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
