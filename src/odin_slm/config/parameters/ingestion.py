"""From raw corpora to records."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Literal

from pydantic import Field, create_model, model_validator

from odin_slm import corpora
from odin_slm.config.parameters.base import Parameters
from odin_slm.core.names import SourceName
from odin_slm.corpora.own.block import OwnCorpus

_SHIPPED = ("ade", "bc5cdr", "biored")
_TAKEN = ("all", "own", "synthetic")
"""Names that mean something else."""


class IngestionParams(Parameters):
    """From raw corpora to records."""

    corpora: tuple[str, ...] = Field(default=_SHIPPED, min_length=1)
    """Corpora that become records, or one; the others stay empty. ``auto``: own_corpora, or else the shipped ones."""
    own_corpora: dict[SourceName, OwnCorpus] = Field(default_factory=dict)
    """Corpora by configuration: name -> where their files lie, how they are written, and what is kept of them."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Corpus name -> options of its parser."""
    synthetic_ratio: float = Field(default=0.0, ge=0.0, le=10.0)
    """Synthetic documents, for training alone, per document of the corpora."""
    instruction: Literal["per_schema", "shared"] = "per_schema"
    """Whether the prompt names what the corpus annotates, or one instruction serves all."""
    relation_mentions: Literal["canonical", "all"] = "canonical"
    """Whether relations name each concept once, or by every surface."""
    max_tokens: int = Field(default=512, ge=64)
    """Tokens that prompt and completion may have together, counted by the base's own tokenizer."""
    overflow: Literal["window", "drop"] = "window"
    """What happens to a longer document: windows cut at sentence ends, or left out; both are counted."""
    seed: int = 42
    """Seed of what parsers draw, and of the synthetic documents."""

    @model_validator(mode="before")
    @classmethod
    def _one_or_auto(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(name := values.get("corpora"), str):
            return values
        return {**values, "corpora": tuple(values.get("own_corpora") or _SHIPPED) if name == "auto" else (name,)}

    @model_validator(mode="after")
    def _known_corpora(self) -> IngestionParams:
        known = (*corpora.CORPORA, *self.own_corpora)
        for name, block in self.own_corpora.items():
            if name in corpora.CORPORA or name in _TAKEN:
                raise ValueError(f"own_corpora: {name!r} is another corpus; give it another name.")
            if block.entities is None:
                raise ValueError(
                    f"own_corpora.{name}: name its entities; `kedro corpus check {block.folder} --format "
                    f"{block.format}` lists what is there."
                )
        for name in (*self.corpora, *self.options):
            if name not in known:
                raise ValueError(f"there is no corpus {name!r}; there are {', '.join(known)}.")
        if misplaced := [name for name in self.options if name in self.own_corpora]:
            raise ValueError(f"options.{misplaced[0]}: it is one of own_corpora; its options belong there.")
        for name, values in self.options.items():
            options_of(name)(**values)
        return self


@cache
def options_of(corpus: str) -> type[Parameters]:
    """Return the model of a corpus parser's options: its arguments beside the files, as their annotations say."""
    parse = corpora.CORPORA[corpus].parse
    arguments = list(inspect.signature(parse, eval_str=True).parameters.values())[1:]
    fields: dict[str, Any] = {a.name: (a.annotation, a.default) for a in arguments}
    return create_model(f"{corpus}_options", __base__=Parameters, **fields)
