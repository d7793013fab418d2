"""Tasks: what a model is taught, how its outputs are read, scored and shown.

A task is the attribute ``TASK`` of ``odin_slm/tasks/<name>/task.py``, or of an installed package that offers it under
the entry point ``odin_slm.tasks``::

    [project.entry-points."odin_slm.tasks"]
    spelling = "my_package.spelling:SpellingTask"

A model's folder names its task; only what is installed is ever imported for it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from odin_slm.tasks.base import Task

_GROUP = "odin_slm.tasks"


def task_names() -> tuple[str, ...]:
    """Return the names of all tasks that are installed."""
    shipped = [info.name for info in pkgutil.iter_modules(__path__) if info.ispkg]
    return tuple(sorted({*shipped, *(point.name for point in entry_points(group=_GROUP))}))


def task_class(name: str) -> type[Task]:
    """Return the class of a task.

    Raises:
        ValueError: There is no such task, or it cannot be imported.
    """
    if name not in task_names():
        raise ValueError(f"there is no task {name!r}; there are {', '.join(task_names())}.")
    points = {point.name: point for point in entry_points(group=_GROUP)}
    found = points[name].load() if name in points else import_module(f"{__name__}.{name}.task").TASK
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ValueError(f"{name!r} is no task: {found!r} does not derive from odin_slm.tasks.Task.")
    return found


def load(values: Mapping[str, Any], sources: Mapping[str, Any] | None = None) -> Task:
    """Return the task that :meth:`Task.to_dict` has described.

    Args:
        values: ``name`` and ``options``.
        sources: Corpus -> what its parser says that it annotates, where the options do not.

    Raises:
        ValueError: There is no such task, or an option is wrong.
    """
    return task_class(values["name"]).from_options(values.get("options", {}), sources)


__all__ = ["Task", "load", "task_class", "task_names"]
