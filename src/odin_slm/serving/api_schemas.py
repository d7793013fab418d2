"""What requests and answers look like; FastAPI makes the OpenAPI document from it.

Which types a request may ask for, and what is answered for a text, are the served model's: :func:`api_of` adds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, create_model, model_validator

from odin_slm.core.errors import OdinError
from odin_slm.inference.reading import check_text
from odin_slm.inference.served_model import ServedModel

Text = Annotated[
    str,
    StringConstraints(min_length=1),
    Field(description="Text to read; not blank. Offsets in answers count Unicode code points."),
]


GivenText = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]
"""One of several texts, whatever was sent in its place: what is none costs no other its answer."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)


class Options(_Message):
    """What both endpoints take."""

    schema_name: str = Field(default="", alias="schema")
    constrained: bool = Field(
        default=True,
        description="Hold the output to the text by a grammar, where the task has one: every entity of an extraction "
        "is a span of the text, every relation legal.",
    )


class PredictRequest(Options):
    """One text or several, each within the model's window."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["text"]}, {"required": ["texts"]}],
        }
    )

    text: Text | None = None
    texts: list[GivenText] | None = Field(
        default=None,
        min_length=1,
        description="Several texts. One that cannot be read is answered with an `error` of its own.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> PredictRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either text or texts")
        if self.text is not None:
            _check(self.text)
        return self

    @property
    def all_texts(self) -> list[Any]:
        """The texts of the request."""
        return [self.text] if self.text is not None else list(self.texts or ())


class ExtractRequest(Options):
    """One document of any length; it is read in overlapping windows of sentences."""

    text: Text

    @model_validator(mode="after")
    def _readable(self) -> ExtractRequest:
        _check(self.text)
        return self


class Output(_Message):
    """How an answer came about."""

    output: str = Field(description="What the model wrote.")
    well_formed: bool = Field(description="Whether every line of the output follows the format.")
    finished: bool = Field(description="Whether it ended before its budget of tokens.")
    tokens: int = Field(description="Tokens written.")
    error: str | None = Field(
        default=None, description="Why the text was not read; the rest of its answer is then empty."
    )


class Answer(_Message):
    """What both answers carry."""

    model: str = Field(description="Digest of base and adapter.")
    constrained: bool
    processing_ms: float


class Window(_Message):
    """A part of the document that was read by itself."""

    begin: int
    end: int
    output: str
    finished: bool
    tokens: int


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
    task: str = Field(description="What the model was taught.")
    example: str = Field(description="A text to try it with.")
    schemas: dict[str, dict[str, list[str]]] = Field(description="Types behind every value of `schema`.")
    version: str = Field(description="Version of odin-slm.")


@dataclass(frozen=True)
class Api:
    """Requests and answers of one model.

    Attributes:
        predict_request: Body of ``POST /predict``.
        predict_response: Its answer.
        extract_request: Body of ``POST /extract``.
        extract_response: Its answer.
    """

    predict_request: type[PredictRequest]
    predict_response: type[BaseModel]
    extract_request: type[ExtractRequest]
    extract_response: type[BaseModel]


def api_of(model: ServedModel) -> Api:
    """Return requests and answers of a model: its sources by name, its task's answer."""
    task, example, last = model.task, model.task.example, model.sources[-1]
    schema = Field(
        default=model.default_source,
        alias="schema",
        description="Which types to look for: all of them, or what one corpus annotates. The prompt names them.",
    )
    options: dict[str, Any] = {"schema_name": (Literal[model.sources], schema)}
    read = task.answer_model()

    def asking(base: type[Any], *examples: dict[str, Any]) -> Any:
        made = create_model(base.__name__, __base__=base, __doc__=base.__doc__, **options)
        known = made.model_config.get("json_schema_extra") or {}
        made.model_config["json_schema_extra"] = {**known, "examples": list(examples)}
        made.model_rebuild(force=True)
        return made

    results = create_model("Prediction", __base__=(Output, read), __doc__="Answer for one text.")
    return Api(
        predict_request=asking(
            PredictRequest, {"text": example}, {"texts": [example, example], "schema": last, "constrained": False}
        ),
        predict_response=create_model(
            "PredictResponse",
            __base__=Answer,
            __doc__="Answers in the order of the texts.",
            results=(list[results], ...),  # type: ignore[valid-type]
        ),
        extract_request=asking(ExtractRequest, {"text": f"{example} {example}"}),
        extract_response=create_model(
            "ExtractResponse",
            __base__=(Answer, read),
            __doc__="What was read from the document: the windows' findings, joined.",
            windows=(list[Window], ...),
        ),
    )


def _check(text: str) -> None:
    try:
        check_text(text)
    except OdinError as error:
        raise ValueError(str(error)) from None
