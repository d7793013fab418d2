"""What the service answers for a text, as the OpenAPI document describes it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Occurrence(BaseModel):
    """One place of the text."""

    model_config = ConfigDict(extra="forbid")

    begin: int = Field(description="Offset of the first character, from 0, in Unicode code points.")
    end: int = Field(description="Offset after the last character.")
    text: str = Field(description="The characters text[begin:end].")


class Entity(BaseModel):
    """An entity that the model lists."""

    model_config = ConfigDict(extra="forbid")

    type: str
    text: str = Field(description="As the model wrote it.")
    occurrences: list[Occurrence] = Field(
        description="Every place where it stands; empty only in free decoding, where the text does not say it."
    )
    confidence: float | None = Field(
        description="Chance that it is right where the model's calibrator is known, else the probability of its line; "
        "null where the engine gives none."
    )


class Argument(BaseModel):
    """Head or tail of a relation."""

    model_config = ConfigDict(extra="forbid")

    text: str
    type: str | None
    occurrences: list[Occurrence]


class Relation(BaseModel):
    """A relation that the model lists."""

    model_config = ConfigDict(extra="forbid")

    type: str
    head: Argument
    tail: Argument
    confidence: float | None


class ExtractionAnswer(BaseModel):
    """What was read from a text."""

    model_config = ConfigDict(extra="forbid")

    entities: list[Entity]
    relations: list[Relation]
