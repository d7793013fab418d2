"""One process of a training that :mod:`odin_slm.training.launcher` has started."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import OdinError
from odin_slm.models import backends
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks import load
from odin_slm.training.launcher import FIGURES


def main(folder: Path) -> int:
    """Train the job in a folder; return the exit status."""
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.ERROR, format="%(levelname)s %(message)s")
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    path = Path(job["base"]["path"]) if job["base"]["path"] else None
    base = BaseModel(job["base"]["source"], path, job["base"]["revision"])
    train, validation = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("train", "validation")
    )
    try:
        backends.prepare(job["backend"])
        from odin_slm.training.lora import train_here

        task = load(job["task"]) if job["task"] else None
        params = TrainingParams.model_validate(job["params"])
        adapter, state = train_here(base, train, validation, Path(job["work"]), params, _report, job["backend"], task)
    except OdinError as error:
        raised = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        (folder / f"error-{rank}.json").write_text(json.dumps(raised), encoding="utf-8")
        return 1
    if rank == 0:
        (folder / "result.json").write_text(json.dumps({"adapter": str(adapter), "state": state}), encoding="utf-8")
    return 0


def _report(step: int, figures: dict[str, float]) -> None:
    print(FIGURES + json.dumps({"step": step, "figures": figures}), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
