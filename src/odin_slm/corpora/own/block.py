"""A corpus by configuration: the block that says where annotated texts lie, how they are written, and what is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from odin_slm.core.record import SPLITS
from odin_slm.tasks.extraction.schema import MEDICAL, ExtractionOptions, Name, Schema

Format = Literal["brat", "bioc_xml", "bioc_json", "pubtator", "iob", "jsonl", "csv", "parquet", "records"]
FILES: Mapping[str, tuple[str, ...]] = {
    "brat": ("*.ann", "*.txt"),
    "bioc_xml": ("*.xml",),
    "bioc_json": ("*.json",),
    "pubtator": ("*.txt", "*.pubtator"),
    "iob": ("*.txt", "*.tsv", "*.iob", "*.iob2", "*.bio", "*.conll"),
    "jsonl": ("*.jsonl", "*.json"),
    "csv": ("*.csv", "*.tsv"),
    "parquet": ("*.parquet",),
    "records": ("*.json", "*.jsonl"),
}
"""Format -> names of its files, where a block names none."""
_WITH_FIELDS = ("jsonl", "csv", "parquet", "records")

OffsetsName = Literal["auto", "characters", "bytes", "utf-16"]


def _inside(pattern: str) -> str:
    if not pattern or pattern.startswith("/") or ".." in pattern.split("/") or "\\" in pattern:
        raise ValueError(f"{pattern!r} may lead out of the folder; name files below it, as train/*.ann.")
    return pattern


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error}).") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_inside)]
"""Name of files below the corpus' folder; ``*`` stands for any characters, ``/`` included."""


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class OwnRelation(_Block):
    """What becomes of a relation type of the files."""

    type: Name | None = None
    """Its name in the experiment; null: that of the files."""
    head: tuple[Name, ...] = Field(min_length=1)
    """Entity types of its head, by their names in the experiment."""
    tail: tuple[Name, ...] = Field(min_length=1)
    """Entity types of its tail."""
    reverse: bool = False
    """Whether the files give tail and head in this order."""


class Split(_Block):
    """How documents get their split: by the hash of their id, unless one of these is given."""

    files: dict[Literal["train", "validation", "test"], tuple[Pattern, ...] | Pattern] | None = None
    """Split -> names of its files."""
    field: str | None = None
    """Field or column that holds it: train, validation (dev, val, valid) or test."""

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        if (self.files is None) == (self.field is None):
            raise ValueError("name either files or field.")
        return self

    def of_file(self, name: str) -> list[str]:
        """Return the splits whose patterns have a file."""
        return [
            split
            for split, patterns in (self.files or {}).items()
            if matches(name, (patterns,) if isinstance(patterns, str) else patterns)
        ]


class Fields(_Block):
    """Where values stand: fields of JSON and records, columns of tables, and columns of IOB files by number."""

    text: str = "text"
    """Field of the text."""
    id: str = "id"
    """Field of the document's id, where there is one."""
    spans: str = "spans"
    """Column of the mentions in CSV and Parquet: a list of objects with start, end and label, or of such triples."""
    relations: str = "relations"
    """Column of the relations there, if there are any: objects with head, tail (places in spans, from 0) and label."""
    token: int = 0
    """Column of the token in IOB files, from 0; negative ones count from the last."""
    tag: int = -1
    """Column of the tag there."""


class OwnCorpus(_Block):
    """A corpus by configuration."""

    folder: str = Field(min_length=1)
    """Folder of the files, relative to the project's."""
    format: Format
    """How they are written. ``jsonl`` is what Prodigy, doccano, spaCy and Label Studio export; which, is recognised."""
    files: tuple[Pattern, ...] = ()
    """Names of the files; empty: by the endings that the format has."""
    entities: dict[str, Name | None] | None = None
    """Entity type of the files -> type in the experiment; null drops it. A list keeps its types as they are called."""
    relations: dict[str, OwnRelation | None] = {}
    """Relation type of the files -> type in the experiment, with what it relates; null drops it."""
    others: Literal["stop", "drop"] = "stop"
    """What becomes of types that are named in neither: a fault, or dropped and counted."""
    split: Split | None = None
    """How documents get their split; null: by the hash of their id, as combination says."""
    fields: Fields = Fields()
    """Where values stand."""
    pmid: Annotated[str, AfterValidator(_compiles)] | None = None
    """Regular expression that finds the PubMed id in a document's id: its first group, or all of it."""
    offsets: OffsetsName = "auto"
    """What offsets count; auto: characters, or else what all of them fit."""
    review: str | None = None
    """The review.json of the review that these documents come back from, relative to the project's folder: no others
    are taken, and each takes the place of the one that it corrects."""
    on_fault: Literal["stop", "drop"] = "stop"
    """Whether a fault stops the run, or costs the mention, the relation or the document that it is in."""

    @field_validator("entities", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        if others := [name for name in value if not isinstance(name, str)]:
            raise ValueError(
                f"found {str(others[0])[:40]!r}; expected names of types, in quotes where YAML reads more."
            )
        return {name: name for name in value}

    @model_validator(mode="after")
    def _relations_relate_entities(self) -> OwnCorpus:
        if self.entities is None:
            return self
        known = {name for name in self.entities.values() if name}
        if not known:
            raise ValueError("entities: all of them are dropped; keep one.")
        for name, relation in self.relations.items():
            if relation and not relation.type and not _is_name(name):
                raise ValueError(f"relations.{name}: this is not one word; name the type that it becomes by type.")
            if relation and (unknown := sorted({*relation.head, *relation.tail} - known)):
                listed = ", ".join(sorted(known))
                raise ValueError(f"relations.{name}: {unknown[0]!r} is no entity type; there are {listed}.")
        return self

    @model_validator(mode="after")
    def _a_field_can_be_there(self) -> OwnCorpus:
        if self.split and self.split.field and self.format not in _WITH_FIELDS:
            raise ValueError(f"split.field: {self.format} has no fields; name the files of each split by split.files.")
        return self

    @model_validator(mode="after")
    def _predictions_are_not_read(self) -> OwnCorpus:
        if self.review and not self.files and self.format != "brat":
            raise ValueError("review: name the corrected files by files; the predictions lie in the same folder.")
        return self

    @property
    def annotates(self) -> Schema:
        """The types that it annotates, in the order of the block."""
        relations = (r.type or name for name, r in self.relations.items() if r)
        entities = (name for name in (self.entities or {}).values() if name)
        return Schema(tuple(dict.fromkeys(entities)), tuple(dict.fromkeys(relations)))

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of its files."""
        return self.files or FILES[self.format]

    def holds(self, name: str) -> bool:
        """Tell whether a file is one of its files; brat's texts belong to their annotations."""
        beside = self.format == "brat" and name.endswith(".txt") and matches(f"{name[:-4]}.ann", self.patterns)
        return beside or matches(name, self.patterns)

    def legal(self) -> dict[str, set[tuple[str, str]]]:
        """Return relation type -> its (head type, tail type) pairs."""
        found: dict[str, set[tuple[str, str]]] = {}
        for name, relation in self.relations.items():
            if relation:
                found.setdefault(relation.type or name, set()).update(product(relation.head, relation.tail))
        return found


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a file's name, relative to its folder, is one of these; a pattern without ``/`` is of any folder."""
    from fnmatch import fnmatchcase

    return any(fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern) for pattern in patterns)


def _is_name(word: str) -> bool:
    try:
        TypeAdapter(Name).validate_python(word)
    except ValidationError:
        return False
    return True


def split_named(word: str) -> str | None:
    """Return the split that a word in a file means; None where it means none."""
    known = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "development": 1}
    place = {**known, "test": 2, "testing": 2}.get(word.strip().casefold())
    return None if place is None else SPLITS[place]


def options_with(options: Mapping[str, Any], own: Mapping[str, OwnCorpus]) -> dict[str, Any]:
    """Return the options of the task extraction for an experiment with own corpora.

    Where they name no types of their own, the types are those of the corpora: the shipped ones if they suffice.

    Args:
        options: ``task.options``.
        own: The experiment's own corpora.
    """
    if not own:
        return dict(options)
    sources = {name: block.annotates for name, block in own.items()}
    stated = ExtractionOptions.model_validate(dict(options))
    found = dict(options)
    if (stated.types().entities, stated.types().legal) == (MEDICAL.entities, MEDICAL.legal) and not _medical(own):
        entities = dict.fromkeys(name for schema in sources.values() for name in schema.entities)
        relations = [
            {"type": name, "head": [head], "tail": [tail]}
            for block in own.values()
            for name, pairs in block.legal().items()
            for head, tail in sorted(pairs)
        ]
        found |= {"entities": list(entities), "relations": relations}
    named = {n: {"entities": list(s.entities), "relations": list(s.relations)} for n, s in sources.items()}
    found["sources"] = {**named, **found.get("sources", {})}
    widest = max(sources, key=lambda name: len(sources[name].entities) + len(sources[name].relations))
    found["default_source"] = found.get("default_source") or widest
    return found


def _medical(own: Mapping[str, OwnCorpus]) -> bool:
    """Tell whether the shipped types are enough for these corpora."""
    return all(
        set(block.annotates.entities) <= set(MEDICAL.entities)
        and all(pairs <= MEDICAL.legal.get(name, frozenset()) for name, pairs in block.legal().items())
        for block in own.values()
    )


def type_names(kinds: Iterable[str]) -> dict[str, str]:
    """Return type -> its name as one word, as it stands between brackets in an output; no two have the same."""
    names: dict[str, str] = {}
    for kind in (given := sorted(set(kinds))):
        try:
            names[kind] = TypeAdapter(Name).validate_python(kind)
        except ValidationError:
            continue
    for kind in (kind for kind in given if kind not in names):
        word = re.sub(r"[^A-Za-z0-9-]+", "_", kind).strip("_-")[:36] or "Type"
        word = word if word[0].isalpha() else f"T_{word}"
        tried = (word, *(f"{word}_{number}" for number in range(2, len(names) + 3)))
        names[kind] = next(name for name in tried if name not in names.values())
    return names
