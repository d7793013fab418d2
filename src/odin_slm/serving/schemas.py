"""What requests and answers look like; FastAPI makes the OpenAPI document from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from odin_slm.core.errors import OdinError
from odin_slm.inference.reading import REQUEST_SCHEMAS, check_text

SchemaName = Literal["all", "ade", "bc5cdr", "biored", "synthetic"]
EXAMPLE = "Cough and rash developed after the second dose of enalapril."

Text = Annotated[
    str,
    StringConstraints(min_length=1),
    Field(description="Text to read; not blank. Offsets in answers count Unicode code points."),
]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)


class Options(_Message):
    """What both endpoints take."""

    schema_name: SchemaName = Field(
        default="biored",
        alias="schema",
        description="Which types to look for: all of them, or what one corpus annotates. The prompt names them.",
    )
    constrained: bool = Field(
        default=True,
        description="Hold the output to the text by a grammar: every entity is a span of it, every relation legal.",
    )


class PredictRequest(Options):
    """One text or several, each within the model's window."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["text"]}, {"required": ["texts"]}],
            "examples": [
                {"text": EXAMPLE},
                {"texts": [EXAMPLE, "Aspirin was well tolerated."], "schema": "bc5cdr", "constrained": False},
            ],
        }
    )

    text: Text | None = None
    texts: list[Text] | None = Field(default=None, min_length=1, description="Several texts.")

    @model_validator(mode="after")
    def _one_of_both(self) -> PredictRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either text or texts")
        for text in self.all_texts:
            _check(text)
        return self

    @property
    def all_texts(self) -> list[str]:
        """The texts of the request."""
        return [self.text] if self.text is not None else list(self.texts or ())


class ExtractRequest(Options):
    """One document of any length; it is read in overlapping windows of sentences."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": f"{EXAMPLE} Both resolved after withdrawal."}]})

    text: Text

    @model_validator(mode="after")
    def _readable(self) -> ExtractRequest:
        _check(self.text)
        return self


class Occurrence(_Message):
    """One place of the text."""

    begin: int = Field(description="Offset of the first character, from 0, in Unicode code points.")
    end: int = Field(description="Offset after the last character.")
    text: str = Field(description="What stands there: text[begin:end].")


class Entity(_Message):
    """An entity that the model lists."""

    type: str
    text: str = Field(description="As the model wrote it.")
    occurrences: list[Occurrence] = Field(
        description="Every place where it stands; empty only in free decoding, where the text does not say it."
    )
    confidence: float | None = Field(
        description="Chance that it is right where the model's calibrator is known, else the probability of its line; "
        "null where the engine gives none."
    )


class Argument(_Message):
    """Head or tail of a relation."""

    text: str
    type: str | None
    occurrences: list[Occurrence]


class Relation(_Message):
    """A relation that the model lists."""

    type: str
    head: Argument
    tail: Argument
    confidence: float | None


class Extraction(_Message):
    """What was read from a text."""

    entities: list[Entity]
    relations: list[Relation]


class Prediction(Extraction):
    """Answer for one text."""

    output: str = Field(description="What the model wrote.")
    well_formed: bool = Field(description="Whether every line of the output follows the format.")
    finished: bool = Field(description="Whether it ended before its budget of tokens.")
    tokens: int = Field(description="Tokens written.")


class Answer(_Message):
    """What both answers carry."""

    model: str = Field(description="Digest of base and adapter.")
    constrained: bool
    processing_ms: float


class PredictResponse(Answer):
    """Answers in the order of the texts."""

    results: list[Prediction]


class Window(_Message):
    """A part of the document that was read by itself."""

    begin: int
    end: int
    output: str
    finished: bool
    tokens: int


class ExtractResponse(Answer, Extraction):
    """What was read from the document: the windows' findings, joined."""

    windows: list[Window]


class ErrorBody(_Message):
    """Every error has this form."""

    error: str = Field(description="A fixed word for the kind of error.")
    details: Any = Field(description="What is wrong, and what to do.")
    request_id: str = Field(description="Also in the X-Request-ID header and in the logs.")


class Health(_Message):
    """The process runs."""

    status: Literal["alive"]


class Ready(_Message):
    """The model answered the canary."""

    status: Literal["ready"]
    canary_ms: float


class ModelCard(_Message):
    """What is served."""

    source: str
    digest: str
    engine: str
    base: str
    created: str = Field(description="When the weights were made, ISO 8601.")
    metrics: dict[str, float] = Field(description="Scores on its test set, where they came with the model.")
    card: dict[str, Any] = Field(description="Registry entry, run, adapter settings, base, test set.")
    limits: dict[str, float] = Field(description="Tokens of a text, of an output and of a window; sizes of requests.")
    schemas: dict[str, dict[str, list[str]]] = Field(description="Types behind every value of `schema`.")
    version: str = Field(description="Version of odin-slm.")


def schemas() -> dict[str, dict[str, list[str]]]:
    """Return the types behind every value of ``schema``."""
    return {
        name: {"entities": list(schema.entities), "relations": list(schema.relations)}
        for name, schema in REQUEST_SCHEMAS.items()
    }


def _check(text: str) -> None:
    try:
        check_text(text)
    except OdinError as error:
        raise ValueError(str(error)) from None
