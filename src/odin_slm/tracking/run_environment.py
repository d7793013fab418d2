"""What a run stands on: the machine, and the versions of the libraries that decide its numbers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

_LIBRARIES = (
    "accelerate bitsandbytes datasets kedro kedro-mlflow llguidance mlflow numpy pandas peft rensa safetensors "
    "tokenizers torch transformers trl unsloth"
).split()


def machine_facts() -> dict[str, str]:
    """Return ``cpu``, ``cores``, ``ram_gib``, ``gpu``, ``driver``, ``cuda``, ``torch``, ``python``, ``os``.

    Nothing heavy is imported for it: a run that only parses corpora does not wait for torch. ``none`` stands for what
    the machine does not have.
    """
    import psutil

    gpus, driver = _gpus()
    return {
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "ram_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "gpu": gpus,
        "driver": driver,
        "cuda": _torch_cuda(),
        "torch": library_versions().get("torch", "none"),
        "python": platform.python_version(),
        "os": platform.platform(),
    }


def library_versions() -> dict[str, str]:
    """Return the installed version of each library that a result may depend on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on Linux
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[str, str]:
    """Return the names of the GPUs with their memory, and the driver's version."""
    command = shutil.which("nvidia-smi")
    if not command:
        return "none", "none"
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "none", "none"
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.count(",") == 2]
    return (", ".join(f"{name} ({memory})" for name, memory, _ in rows), rows[0][2]) if rows else ("none", "none")


def _torch_cuda() -> str:
    """Return the CUDA version that torch was built for, without importing torch."""
    found = find_spec("torch")
    file = Path(found.origin).with_name("version.py") if found and found.origin else None
    return str(run_path(str(file)).get("cuda") or "none") if file and file.is_file() else "none"
