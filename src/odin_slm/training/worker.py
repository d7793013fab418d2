"""One process of a training that :mod:`odin_slm.training.launcher` has started."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.errors import OdinError
from odin_slm.models import backends
from odin_slm.models.base_model import BaseModel
from odin_slm.tasks import load
from odin_slm.training import checkpoints
from odin_slm.training.launcher import FIGURES
from odin_slm.training.machines import Link


def main(folder: Path) -> int:
    """Train the job in a folder, or the one that the first machine hands out; return the exit status."""
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.ERROR, format="%(levelname)s %(message)s")
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))

    def note(error: OdinError) -> None:
        (folder / f"error-{rank}.json").write_text(json.dumps(error.to_dict()), encoding="utf-8")

    link = Link.open()
    if link:
        link.watch(lambda lost: _end(note, lost))
    try:
        result = _train(job, rank, link)
        if rank == 0:
            (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        if link:
            link.close()
    except Exception as error:
        cause = link.cause_of(error) if link else None
        if link:
            link.give_up(cause or error)
        told = cause or error
        if not isinstance(told, OdinError):
            raise
        note(told)
        return 1
    return 0


def _train(job: dict[str, Any], rank: int, link: Link | None) -> dict[str, Any]:
    """Train; return the adapter and the state of the training."""
    path = Path(job["base"]["path"]) if job["base"]["path"] else None
    base = BaseModel(job["base"]["source"], path, job["base"]["revision"])
    work = Path(job["work"])
    if link is None or link.machine == 0:
        params = TrainingParams.model_validate(job["params"])
        params = checkpoints.shared_out(work, params, int(os.environ.get("WORLD_SIZE", "1")))
        if link and rank == 0:
            link.hand_out({**job, "params": params.model_dump(mode="json")})
    else:
        job = link.receive()
        params = TrainingParams.model_validate(job["params"])
    backends.prepare(job["backend"])
    from odin_slm.training.lora import train_here

    task = load(job["task"]) if job["task"] else None
    records = job["train"], job["validation"]
    adapter, state = train_here(base, *records, work, params, _report, job["backend"], task)
    return {"adapter": str(adapter), "state": state}


def _end(note: Callable[[OdinError], None], lost: OdinError) -> None:
    """End this process at once: its main thread waits for a machine that will not answer."""
    note(lost)
    os._exit(1)


def _report(step: int, figures: dict[str, float]) -> None:
    print(FIGURES + json.dumps({"step": step, "figures": figures}), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
