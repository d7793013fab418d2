"""What is staged as a release, under which names and terms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from odin_slm.config.parameters.base import Parameters
from odin_slm.core.names import hub_id_fault, name_fault


def _without(fault: Callable[[str], str]) -> AfterValidator:
    def check(value: str) -> str:
        if found := fault(value):
            raise ValueError(f"{found}.")
        return value

    return AfterValidator(check)


HubId = Annotated[str, _without(hub_id_fault)]
RepositoryName = Annotated[str, _without(partial(name_fault, longest=96))]


class PublishingParams(Parameters):
    """What is staged as a release, under which names and terms."""

    experiment: str = Field(min_length=1)
    """Name of the experiment, for the commands on the cards."""
    model_name: RepositoryName = "odin-medical-ner-re"
    """Title of the model card; for a Llama base it must begin with Llama."""
    dataset_name: RepositoryName = "odin-medical-ner-re-data"
    """Title of the dataset card."""
    model_repo: HubId | None = None
    """Hub id of the model; the card's snippet then downloads from there."""
    dataset_repo: HubId | None = None
    """Hub id of the dataset; the model card then links it."""
    base_model_id: HubId | None = None
    """Hub id that stands for a base in a local folder of the same name; a Hub base needs none."""
    include_base: Literal["auto", "never"] = "auto"
    """Whether a base that is a local folder goes into the release, under base/."""
    license: str = "apache-2.0"
    """Hub licence id of the adapter."""
    license_name: str | None = Field(default=None, min_length=1)
    """Name of that licence, which license=other needs."""
    license_file: Path | None = None
    """Text of that licence, unless it is apache-2.0 or lies in the base's folder as LICENSE."""
    base_license: str | None = None
    """Hub licence id of a base whose card states none; you have read it elsewhere."""
    minimum_scores: dict[str, float] = Field(default_factory=dict)
    """Headline metric of the task, as entity_f1_micro -> the least that a model needs to be staged."""
    maximum_parse_failure_rate: float = Field(default=0.2, ge=0.0, le=1.0)
    """Nor is one of whose outputs a larger share breaks the format or does not end."""
    reproduced_predictions: int = Field(default=2, ge=0)
    """Predictions that the adapter is asked for again before it is staged; a push needs at least one."""
    checkpoint: str | None = Field(default=None, pattern=r"^checkpoint-\d+$")
    """Checkpoint of the training to release in place of the final adapter; its card then shows no scores."""
    export: Literal["none", "merged", "gguf"] = "none"
    """The adapter merged into the base's weights, in 16 bit; gguf: in a GGUF file for llama.cpp, too."""
    gguf_type: Literal["bf16", "f16", "q8_0"] = "q8_0"
    """Format of the GGUF file's matrices: 16 bits, or blocks of 8, which are asked and scored as well."""
    export_tolerance: float = Field(default=0.01, ge=0.0, le=1.0)
    """How far the merged weights' micro F1 may be from the adapter's on the test records."""
    override: dict[str, Annotated[str, StringConstraints(strip_whitespace=True, min_length=10)]] = Field(
        default_factory=dict
    )
    """Gate (data, model or card) -> the reason why it counts as open; the card shows it."""
    push: bool = False
    """Publish what is staged on the Hub."""
    private: bool = True
    """Whether the repositories stay hidden."""
    revision: str = Field(default="main", pattern=r"^[\w][\w./-]*$")
    """Branch that the commits go to."""
    tag: str | None = Field(default=None, pattern=r"^[\w][\w.-]*$")
    """Tag of the commits; None derives one from their content."""
    create_pr: bool = False
    """Propose the commits as pull requests; they are verified, but neither tagged nor made visible."""
    message: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^[^\r\n]+$")
    """First line of the commits' messages; None names the experiment."""

    @model_validator(mode="after")
    def _publishable(self) -> PublishingParams:
        for gate in self.override:
            if gate in ("security", "licence"):
                raise ValueError(f"the gate {gate} cannot be overridden.")
            if gate not in ("data", "model", "card"):
                raise ValueError(f"there is no gate {gate!r}; data, model and card can be overridden.")
        if self.license == "other" and not self.license_name:
            raise ValueError("license=other needs license_name=NAME, as the Hub has no id to tell the licence by.")
        if self.export != "none" and self.checkpoint:
            raise ValueError("export needs the final adapter, whose scores the merged weights are compared with.")
        if self.push and not (self.model_repo or self.dataset_repo):
            raise ValueError("push needs model_repo=OWNER/NAME, dataset_repo=OWNER/NAME, or both.")
        if self.push and self.model_repo and not self.reproduced_predictions:
            raise ValueError("push needs reproduced_predictions of at least 1.")
        return self
