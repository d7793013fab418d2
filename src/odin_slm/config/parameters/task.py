"""What the model is taught."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from pydantic import Field, model_validator

from odin_slm import corpora
from odin_slm.config.parameters.base import Parameters
from odin_slm.core.names import SourceName
from odin_slm.corpora.own.block import OwnCorpus, options_with
from odin_slm.tasks import Task, load


@lru_cache(maxsize=8)
def _task(name: str, options: str) -> Task:
    return load({"name": name, "options": json.loads(options)}, corpora.annotated())


class TaskParams(Parameters):
    """What the model is taught.

    An environment names another task as ``task: NAME``, or ``task: {NAME: {option: value}}``, as options beside the
    ones of ``conf/base`` would be merged with these.
    """

    name: str = "extraction"
    """The task: a package of odin_slm.tasks, or one that an installed package offers."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The task's own options; extraction takes entities, relations, synonyms, sources, metrics, default_source, form,
    judged_pairs."""
    own_corpora: dict[SourceName, OwnCorpus] = Field(default_factory=dict)
    """Corpora by configuration. Where options name the shipped types alone and these corpora have others, extraction
    takes theirs."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if isinstance(values, dict) and len(others := set(values) - set(cls.model_fields)) == 1:
            (name,) = others
            return {"name": name, "options": values[name] or {}, "own_corpora": values.get("own_corpora", {})}
        return {"name": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _task_exists(self) -> TaskParams:
        self.task()
        return self

    def task(self) -> Task:
        """Return the task; its sources are the project's corpora and the experiment's own."""
        options = self.options
        if self.name == "extraction":
            options = options_with(options, self.own_corpora)
        return _task(self.name, json.dumps(options, sort_keys=True))
