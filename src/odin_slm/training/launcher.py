"""Training in separate processes: several under ``accelerate launch``, or one that must import unsloth first.

Kedro itself runs once. It hands a folder with the job and the records to the processes, and reads the result or the
error from it. Only the first process writes the adapter; it reports its figures as lines on its standard output.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core import errors
from odin_slm.core.errors import BackendError, OdinError
from odin_slm.core.record import Record
from odin_slm.models import backends
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks import Task

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
    with tempfile.TemporaryDirectory(prefix="odin-slm-") as name:
        folder = Path(name)
        job = {
            "base": {"source": base.source, "path": str(base.path) if base.path else None, "revision": base.revision},
            "work": str(work.absolute()),
            "params": params.model_dump(mode="json"),
            "backend": backend,
            "task": task.to_dict() if task else None,
        }
        for part, value in (("job", job), ("train", list(train)), ("validation", list(validation))):
            (folder / f"{part}.json").write_text(json.dumps(value), encoding="utf-8")
        command = [*_launcher(params), "-m", "odin_slm.training.worker", name]
        code = _run(command, on_log)
        for file in sorted(folder.glob("error-*.json")):
            raised = json.loads(file.read_text(encoding="utf-8"))
            kind: type[OdinError] = getattr(errors, raised.pop("kind"))
            raise kind(raised.pop("what"), **raised)
        if code:
            raise BackendError(
                f"the training processes ended with status {code}.",
                where="training.launcher",
                fix="See their messages above, or set training.launcher=none to train in one process.",
            )
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return Path(result["adapter"]), result["state"]


def _launcher(params: TrainingParams) -> list[str]:
    if params.launcher == "none":
        return [sys.executable]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if params.accelerate_config:
        if not params.accelerate_config.is_file():
            raise BackendError(
                "the file does not exist.",
                where=f"training.accelerate_config={params.accelerate_config}",
                fix="Create it with: accelerate config --config_file FILE",
            )
        command += ["--config_file", str(params.accelerate_config)]
        return [*command, *(["--num_processes", str(params.num_processes)] if params.num_processes else [])]
    import torch

    count = params.num_processes or max(1, torch.cuda.device_count())
    if backends.cuda() and count > torch.cuda.device_count():
        raise BackendError(
            f"{count} processes need {count} CUDA devices, but there are {torch.cuda.device_count()}.",
            where="training.num_processes",
            fix="Lower it, or leave it null.",
        )
    # accelerate's launcher for CPUs needs mpirun. The one for GPUs starts torch's, which serves CPUs as well.
    kind = ["--multi_gpu"] if count > 1 else []
    options = {
        "--num_processes": count,
        "--num_machines": 1,
        "--mixed_precision": "no",  # the worker sets it in its training arguments
        "--dynamo_backend": "no",
        "--main_process_port": _free_port(),
    }
    return [*command, *kind, *(str(word) for pair in options.items() for word in pair)]


def _run(command: Sequence[str], on_log: Callable[[int, dict[str, float]], None]) -> int:
    """Run the processes to the end and pass their figures on; terminate them if this one is interrupted."""
    source = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "ACCELERATE_USE_CPU": "false" if backends.cuda() else "true",
    }
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
