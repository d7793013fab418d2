"""How long ``kedro registry list`` takes here, against a plain project of Kedro and kedro-mlflow.

    .venv/bin/python benchmarks/startup.py [ROUNDS]

The plain project is made by ``kedro new`` in a temporary folder: no pipelines, no parameters, the hooks of the
installed plugins. Both run in this environment, in turns, each in a process of its own; the first turn, which fills the
caches, is not counted. Prints the medians and their ratio. Where other processes take the cores, the ratio of processor
time is the one to read.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEDRO = [sys.executable, "-m", "kedro"]


def plain_project(folder: Path) -> Path:
    """Make a project by Kedro's own template, with the configuration file that kedro-mlflow asks for."""
    asked = ["--name", "plain", "--tools", "none", "--example", "n", "--telemetry", "no"]
    subprocess.run([*KEDRO, "new", *asked], cwd=folder, check=True, capture_output=True)
    (folder / "plain" / "conf" / "base" / "mlflow.yml").write_text("tracking: {experiment: {name: plain}}\n")
    return folder / "plain"


def seconds(project: Path, cache: Path) -> tuple[float, float]:
    """Return how long ``kedro registry list`` takes in a project, by the clock and of processor time.

    Compiled modules are kept in ``cache``, whether this shell keeps them or not.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    before, begin = os.times(), time.perf_counter()
    subprocess.run([*KEDRO, "registry", "list"], cwd=project, check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - begin, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, busy


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", nargs="?", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        projects = {"this project": ROOT, "plain project": plain_project(Path(folder))}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in projects}
        for turn in range(rounds + 1):
            for name, project in projects.items():
                taken = seconds(project, Path(folder) / "cache")
                if turn:
                    found[name].append(taken)
    medians = [[statistics.median(taken[kind] for taken in found[name]) for name in projects] for kind in range(2)]
    for title, (ours, plain) in zip(("time", "processor time"), medians, strict=True):
        print(f"{title:15} {ours:6.2f} s here, {plain:6.2f} s plain, ratio {ours / plain:.2f}")


if __name__ == "__main__":
    main()
