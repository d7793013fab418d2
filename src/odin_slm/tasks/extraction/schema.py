"""Which types an extraction may name, and which of them a corpus annotates.

The types are data: an experiment names its own in ``task.options`` (see :class:`ExtractionOptions`), and the medical
ones (:data:`MEDICAL`) are the value that the project ships. A corpus that does not annotate a type says nothing about
it: BC5CDR never marks ``treats``, ADE marks a drug only where the sentence reports an adverse effect of it. The prompt
therefore names what the corpus at hand annotates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from odin_slm.core.names import SourceName
from odin_slm.tasks.extraction.tagged import Form

Name = Annotated[str, StringConstraints(pattern=r"^[^\W\d][\w-]*$", max_length=40)]
"""Name of a type: one word, as it stands between brackets in an output."""


@dataclass(frozen=True)
class Schema:
    """What one corpus annotates, or one request asks for.

    Attributes:
        entities: Entity types, in the order of :attr:`Types.entities`.
        relations: Relation types, in the order of :attr:`Types.relations`.
    """

    entities: tuple[str, ...]
    relations: tuple[str, ...]


@dataclass(frozen=True)
class Types:
    """The closed sets of an experiment.

    Attributes:
        entities: Entity types; their order is that of tables.
        signatures: Every relation type with its legal (head type, tail type) pairs, sorted: the same in every process.
        synonyms: Entity types that corpora use for the same strings -> the one that the view ``collapsed`` takes for
            both.
    """

    entities: tuple[str, ...]
    signatures: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    synonyms: tuple[tuple[str, str], ...] = ()

    @cached_property
    def relations(self) -> tuple[str, ...]:
        """Relation types, in the order of tables."""
        return tuple(name for name, _ in self.signatures)

    @cached_property
    def legal(self) -> Mapping[str, frozenset[tuple[str, str]]]:
        """Relation type -> its legal (head type, tail type) pairs."""
        return MappingProxyType({name: frozenset(pairs) for name, pairs in self.signatures})

    @cached_property
    def everything(self) -> Schema:
        """The schema of all types."""
        return Schema(self.entities, self.relations)

    def __getstate__(self) -> dict[str, Any]:  # a mapping proxy cannot be pickled; it is made again
        return {name: self.__dict__[name] for name in ("entities", "signatures", "synonyms")}


class SourceOptions(BaseModel):
    """What a corpus annotates, as configuration writes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entities: tuple[Name, ...] = Field(min_length=1)
    """Entity types."""
    relations: tuple[Name, ...] = ()
    """Relation types."""


class RelationOptions(BaseModel):
    """A relation type, as configuration writes it: every head type may go with every tail type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Name
    """Its name."""
    head: tuple[Name, ...] = Field(min_length=1)
    """Entity types of its head."""
    tail: tuple[Name, ...] = Field(min_length=1)
    """Entity types of its tail."""


class ExtractionOptions(BaseModel):
    """The types of an experiment: ``task.options`` of the task ``extraction``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entities: tuple[Name, ...] = Field(default=("Drug", "Disease", "Symptom"), min_length=1)
    """Entity types."""
    relations: tuple[RelationOptions, ...] = (
        RelationOptions(type="causes", head=("Drug",), tail=("Disease", "Symptom")),
        RelationOptions(type="treats", head=("Drug",), tail=("Disease", "Symptom")),
        RelationOptions(type="associated_with", head=("Drug",), tail=("Disease", "Symptom", "Drug")),
        RelationOptions(type="interacts_with", head=("Drug",), tail=("Drug",)),
    )
    """Relation types with the entity types that they relate."""
    synonyms: dict[Name, Name] = {"Symptom": "Disease"}
    """Entity types that corpora use for the same strings -> the type that stands for both in the view ``collapsed``."""
    sources: dict[SourceName, SourceOptions] = {}
    """Source -> the types that it annotates, where they are others than its parser says."""
    metrics: tuple[str, ...] | None = None
    """Rules to score by beside exact, of odin_slm.tasks.extraction.metrics.rules; null: all of them."""
    default_source: str = ""
    """Source whose types are asked for where a request names none; empty: the one that annotates the most types."""
    form: Form | dict[SourceName, Form] = "list"
    """How models write an output: list (entities, then relations), inline (the text with tags in it, then relations) or
    numbered (every occurrence of an entity, then relations); or source -> its form, list for those not named. Records
    are lists in every form."""
    judged_pairs: int = Field(default=0, ge=0, le=64)
    """Pairs of entities that training asks about, yes or no, of each record, at most; 0: none. See
    evaluation.relations."""

    @model_validator(mode="before")
    @classmethod
    def _synonyms_of_own_types(cls, values: Any) -> Any:
        # the shipped synonyms are of the shipped types
        if isinstance(values, dict) and "entities" in values and "synonyms" not in values:
            known = set(values["entities"])
            if not {"Symptom", "Disease"} <= known:
                return {**values, "synonyms": {}}
        return values

    @model_validator(mode="after")
    def _form_can_be_judged(self) -> ExtractionOptions:
        forms = {self.form} if isinstance(self.form, str) else set(self.form.values())
        if self.judged_pairs and forms - {"list"}:
            raise ValueError("judged_pairs: pairs are judged behind lists of entities; form names another one.")
        return self

    @model_validator(mode="after")
    def _types_are_known(self) -> ExtractionOptions:
        if repeated := sorted({name for name in self.entities if self.entities.count(name) > 1}):
            raise ValueError(f"entities: {', '.join(repeated)} occurs more than once.")
        known = set(self.entities)
        for relation in self.relations:
            for name in sorted({*relation.head, *relation.tail} - known):
                raise ValueError(
                    f"relations, {relation.type}: {name!r} is no entity type; there are {_listed(self.entities)}."
                )
        for name in sorted({*self.synonyms, *self.synonyms.values()} - known):
            raise ValueError(f"synonyms: {name!r} is no entity type; there are {_listed(self.entities)}.")
        for name, other in self.synonyms.items():
            if other in self.synonyms:
                raise ValueError(f"synonyms: {name} stands for {other}, which stands for another type itself.")
        if any(relation.type == "none" for relation in self.relations):
            raise ValueError("relations: an instruction says none where it asks for no relation; rename this type.")
        for source, chosen in self.sources.items():
            require_known(self.types(), Schema(chosen.entities, chosen.relations), f"sources.{source}")
        return self

    def types(self) -> Types:
        """Return the types."""
        signatures: dict[str, set[tuple[str, str]]] = {}
        for relation in self.relations:
            signatures.setdefault(relation.type, set()).update(product(relation.head, relation.tail))
        return Types(
            self.entities,
            tuple((name, tuple(sorted(pairs))) for name, pairs in signatures.items()),
            tuple(self.synonyms.items()),
        )


def require_known(types: Types, schema: Schema, where: str) -> None:
    """Check that a schema names types of an experiment alone.

    Raises:
        ValueError: It names another one.
    """
    kinds: tuple[tuple[Literal["entity", "relation"], tuple[str, ...], tuple[str, ...]], ...] = (
        ("entity", schema.entities, types.entities),
        ("relation", schema.relations, types.relations),
    )
    for kind, named, known in kinds:
        for name in named:
            if name not in known:
                raise ValueError(f"{where}: {name!r} is no {kind} type; there are {_listed(known)}.")


def require_tellable(form: str | Mapping[str, str], schemas: Mapping[str, Schema]) -> None:
    """Check that forms of outputs are those of sources, and that an instruction, which names types, tells which.

    Raises:
        ValueError: A source is unknown, or another one asks for the same types in another form.
    """
    if isinstance(form, str):
        return
    for name in form:
        if name not in schemas:
            raise ValueError(f"form: there is no source {name!r}; there are {_listed(tuple(schemas))}.")
        for other in schemas:
            if schemas[other] == schemas[name] and form.get(other, "list") != form[name]:
                raise ValueError(f"form: {name} and {other} ask for the same types, and need the same form.")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


MEDICAL = ExtractionOptions().types()
"""The shipped types."""

ENTITY_TYPES, RELATION_TYPES = MEDICAL.entities, MEDICAL.relations

SCHEMAS: Mapping[str, Schema] = MappingProxyType(
    {
        "ade": Schema(("Drug", "Symptom"), ("causes",)),
        "bc5cdr": Schema(("Drug", "Disease"), ("causes",)),
        "biored": Schema(("Drug", "Disease"), RELATION_TYPES),
        "synthetic": MEDICAL.everything,
    }
)
"""What each of the shipped corpora annotates; the keys are the values of a record's ``source``."""
