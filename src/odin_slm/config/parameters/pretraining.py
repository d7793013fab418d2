"""From training documents and further text to the embedded base."""

from __future__ import annotations

from pydantic import Field, model_validator

from odin_slm.config.parameters.base import Parameters


class ArchitectureParams(Parameters):
    """Shape of the embedded base."""

    vocabulary: int = Field(default=5120, ge=400)
    """Entries of the tokenizer."""
    hidden: int = Field(default=256, ge=16)
    """Features of a position."""
    layers: int = Field(default=6, ge=2)
    """Transformer blocks."""
    heads: int = Field(default=4, ge=3)
    """Attention heads."""
    feed_forward: int = Field(default=704, ge=16)
    """Features inside the feed-forward blocks."""
    context: int = Field(default=1024, ge=128)
    """Longest input in tokens."""

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> ArchitectureParams:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError("hidden must be an even multiple of heads: rotary embeddings turn pairs of features.")
        if self.hidden < 6 * self.heads:
            raise ValueError("hidden must be 6 times heads or more: the starting weights copy with heads of that size.")
        return self


class ScheduleParams(Parameters):
    """Length and rates of pretraining."""

    tokens: int = Field(default=22_000_000, ge=1000)
    """Tokens to train on, padding not counted."""
    batch_tokens: int = Field(default=4096, ge=256)
    """Tokens of one step, padding included."""
    learning_rate: float = Field(default=0.02, gt=0.0)
    """Peak rate of Muon (matrices)."""
    embedding_learning_rate: float = Field(default=0.003, gt=0.0)
    """Peak rate of AdamW (embeddings, norms)."""
    circuit_learning_rate: float = Field(default=0.0005, gt=0.0)
    """Peak rate of AdamW for the attention of the first two layers, where the copy heads are."""
    warmup: float = Field(default=0.041, ge=0.0, lt=1.0)
    """Share of the tokens over which the rates rise."""
    decay: float = Field(default=0.67, ge=0.0, le=1.0)
    """Share of the tokens over which they fall to zero."""
    log_every: int = Field(default=20, ge=1)
    """Steps between log lines."""
    evaluate_every: int = Field(default=100, ge=1)
    """Steps between evaluations on held-out examples."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between checkpoints."""
    average: int = Field(default=1, ge=1)
    """The base is the mean of the weights at this many of the last points where the rates had fallen to zero."""
    seed: int = 42
    """Seed of weights and data."""


class MixtureParams(Parameters):
    """Shares of the exercises of the curriculum; see odin_slm.pretraining.curriculum."""

    language: float = Field(default=0.08, ge=0.0)
    """Plain text."""
    gold: float = Field(default=0.40, ge=0.0)
    """Annotated training documents, mostly with other names in them."""
    lists: float = Field(default=0.0, ge=0.0)
    """Annotated training documents whose names are extended to enumerations."""
    products: float = Field(default=0.0, ge=0.0)
    """The same, with both arguments of a relation enumerated."""
    repeats: float = Field(default=0.0, ge=0.0)
    """Texts that repeat a few names."""
    corruption: float = Field(default=0.0, ge=0.0)
    """Corrupted outputs, from whose errors the model learns to recover."""
    loops: float = Field(default=0.0, ge=0.0)
    """The same with repetition loops in long lists of relations."""
    affixes: float = Field(default=0.0, ge=0.0)
    """Annotated training documents whose names touch prefixes, brackets and dashes."""
    notes: float = Field(default=0.15, ge=0.0)
    """Synthetic clinical notes, mostly with other names in them."""
    tagged: float = Field(default=0.16, ge=0.0)
    """Sentences of other annotated collections."""
    copy_spans: float = Field(default=0.18, ge=0.0)
    """Marked spans and invented words to find and copy."""
    copy_one: float = Field(default=0.0, ge=0.0)
    """One marked span to copy; the marks stand apart from it."""
    copy_glued: float = Field(default=0.0, ge=0.0)
    """One marked span to copy; the marks touch it."""
    copy_hard: float = Field(default=0.0, ge=0.0)
    """One marked span to copy whose words the text repeats."""
    copy_odd: float = Field(default=0.0, ge=0.0)
    """One marked span to copy of digits, signs and capitals, or a word that stutters."""
    nothing: float = Field(default=0.03, ge=0.0)
    """Texts without anything that the schema names."""


class PhaseParams(Parameters):
    """What is learned over a part of the schedule."""

    until: float = Field(gt=0.0, le=1.0)
    """Share of the tokens at which the phase ends; 1 for the last."""
    prompt_share: float = Field(default=0.3, ge=0.0, le=1.0)
    """Share of the prompt tokens that are predicted too; completion tokens all are."""
    decision_weight: float = Field(default=1.0, gt=0.0)
    """Weight of a token at which an output decides which name, type or end of a list comes next."""
    restart: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the peak rates at which the phase restarts them, to fall to zero at its end; 0 means no restart."""
    mixture: MixtureParams = MixtureParams()
    """Share of each exercise."""


class PretrainingParams(Parameters):
    """From training documents and further text to the embedded base."""

    experiment: str = Field(min_length=1)
    """Name of the experiment, for the card of the base."""
    architecture: ArchitectureParams = ArchitectureParams()
    """Shape of the model."""
    schedule: ScheduleParams = ScheduleParams()
    """Length and rates."""
    phases: tuple[PhaseParams, ...] = Field(default=(PhaseParams(until=1.0),), min_length=1)
    """What is learned, one phase after the other."""
    held_out: float = Field(default=0.02, gt=0.0, lt=0.5)
    """Share of the texts kept out of training, for the evaluation loss and the probes."""
    probes: int = Field(default=200, ge=1)
    """Examples of each exercise in the probes."""
    copy_probes: int = Field(default=1000, ge=1)
    """Single marked spans to copy in the probes, with marks apart and as many with marks that touch them."""

    @model_validator(mode="after")
    def _phases_follow_each_other(self) -> PretrainingParams:
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)) or ends[-1] != 1.0:
            raise ValueError(f"phases must end one after the other, the last at 1.0; found {ends}.")
        restarts = [bool(phase.restart) for phase in self.phases]
        if restarts != sorted(restarts) or restarts[0]:
            raise ValueError("the first phase cannot restart the rates, and after one that does all others have to.")
        if self.schedule.average > 1 + sum(restarts):
            raise ValueError(
                f"schedule.average: the rates fall to zero {1 + sum(restarts)} times, not {self.schedule.average}."
            )
        return self
