"""What the hooks know of a run, in whichever process or thread a node runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io import MemoryDataset

from odin_slm.core.redaction import Redactor

if TYPE_CHECKING:
    from odin_slm.tasks import Task

_ENTRY = "run_state"


@dataclass(frozen=True)
class RunState:
    """A run.

    Attributes:
        root: The project's folder.
        experiment: Name of the experiment.
        run_id: The MLflow run; None where the pipeline is not tracked.
        owned: Whether the run is closed at the end; an orchestrator's is not.
        redactor: Takes paths of this machine and secrets out of what is tracked.
    """

    root: Path
    experiment: str
    run_id: str | None
    owned: bool
    redactor: Redactor


class CatalogHook:
    """A hook that knows the catalog; a worker process of ParallelRunner knows nothing else of the run."""

    _catalog: Any = None

    @hook_impl
    def before_node_run(self, catalog: Any) -> None:
        """Remember the catalog."""
        self._catalog = catalog


def put_state(catalog: Any, state: RunState) -> None:
    """Add the state to the catalog, which is all of a session that ParallelRunner hands to its worker processes."""
    catalog[_ENTRY] = MemoryDataset(state, copy_mode="assign")


def state_of(catalog: Any) -> RunState | None:
    """Return the state, or None before the run is opened."""
    dataset = catalog.get(_ENTRY)
    return dataset.load() if isinstance(dataset, MemoryDataset) else None


def task_of(catalog: Any) -> Task:
    """Return the task of a run; the shipped one where no node names it."""
    from odin_slm.config.parameters import TaskParams

    known = catalog.get("params:task")
    return TaskParams.model_validate(known.load() if isinstance(known, MemoryDataset) else "extraction").task()
