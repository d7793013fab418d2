"""From adapter and test set to predictions, scores and a report."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from odin_slm.config.parameters.base import Parameters, Precision
from odin_slm.tasks.operating_point import required_precision


class EvaluationParams(Parameters):
    """From adapter and test set to predictions, scores and a report."""

    experiment: str = Field(min_length=1)
    """Name of the experiment, as the results give it."""
    decoding: Literal["free", "constrained", "both"] = "both"
    """Greedy decoding as the model likes, held to the input by a grammar, or both; the grammar's scores lead.

    A task without a grammar is decoded freely, whatever is asked for.
    """
    batch_size: int = Field(default=32, ge=1)
    """Outputs decoded together."""
    precision: Precision = "fp32"
    """Arithmetic of the layers' products on a CPU; auto takes bf16 where the processor is faster in it.

    In bf16 some outputs differ. A GPU takes bf16 where it has it.
    """
    max_new_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Budget of an output in tokens; auto is 1.25 times the longest gold output of the test set, plus 16."""
    relations: Literal["list", "pairs", "both"] = "list"
    """Relations as the model lists them, every legal pair of listed entities judged by itself, or both.

    Pairs are judged of outputs that a grammar holds, by thresholds fitted on validation records.
    """
    abbreviations: bool = False
    """List both forms of a name that the text abbreviates, "acute renal failure (ARF)", where the model lists one.

    Relations of either form become one. Outputs that a grammar holds are completed; the model is read so from then on.
    """
    compare_base: bool = True
    """Evaluate the base model alone beside the fine-tuned one.

    A pretrained base that was never shown the format writes up to the budget, which can take longer than all the rest.
    """
    num_samples: int | None = Field(default=None, ge=1)
    """Evaluate at most this many test records, drawn by the seed."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """What generates: our own batched decoding (CPU or one GPU), or vLLM, which has to be installed and needs a GPU."""
    calibration: Literal["isotonic", "temperature", "none"] = "isotonic"
    """How the probability of an output line becomes the chance that it is right; fitted on the validation split."""
    calibration_samples: int = Field(default=150, ge=1)
    """Extract from at most this many validation records for it, drawn by the seed."""
    operating_point: str | None = None
    """What the operating point of constrained decoding is fitted for, on the same records: f1, or precision=0.9.

    It says how readily lists end, and from which confidence on something is listed; null leaves decoding as it is.
    """
    significance: float = Field(default=0.05, gt=0.0, lt=1.0)
    """p-value below which a difference from the base or the champion counts."""
    bootstrap_resamples: int = Field(default=1000, ge=100)
    """Resamples behind every interval."""
    seed: int = 42
    """Seed of the sample and of the bootstrap."""

    @field_validator("operating_point", mode="before")
    @classmethod
    def _known_objective(cls, value: Any) -> Any:
        if value in (None, "none"):
            return None
        required_precision(str(value))
        return value

    @model_validator(mode="before")
    @classmethod
    def _no_penalties(cls, values: Any) -> Any:
        for name in ("repetition_penalty", "no_repeat_ngram_size"):
            if isinstance(values, dict) and name in values:
                raise ValueError(f"{name} is not offered: an extraction must repeat the words of its input.")
        return values

    @model_validator(mode="after")
    def _point_of_a_grammar(self) -> EvaluationParams:
        if self.operating_point and self.decoding == "free":
            raise ValueError("operating_point is that of constrained decoding: set decoding to constrained or both.")
        return self

    @model_validator(mode="after")
    def _completed_is_what_a_grammar_holds(self) -> EvaluationParams:
        if self.abbreviations and self.decoding == "free":
            raise ValueError("abbreviations completes constrained outputs: set decoding to constrained or both.")
        return self

    @model_validator(mode="after")
    def _pairs_can_be_judged(self) -> EvaluationParams:
        if self.relations != "list":
            if self.operating_point:
                raise ValueError(f"relations={self.relations} has thresholds of its own: set operating_point to null.")
            if self.decoding == "free":
                raise ValueError(f"relations={self.relations} needs a grammar: set decoding to constrained or both.")
            if self.backend == "vllm":
                raise ValueError(f"relations={self.relations} is not judged by vLLM: set backend=transformers.")
        return self
