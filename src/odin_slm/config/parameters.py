"""Typed parameters: one model per pipeline, checked before any node runs.

Kedro builds them from ``conf/<env>/parameters_<pipeline>.yml`` and ``--params``; an unknown key or a value out of range
stops the run and names the key.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model, model_validator

from odin_slm import corpora
from odin_slm.tasks import Task, load

HubId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
RepositoryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=96)]


class Parameters(BaseModel):
    """Base of all parameters: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@lru_cache(maxsize=8)
def _task(name: str, options: str) -> Task:
    return load({"name": name, "options": json.loads(options)}, corpora.annotated())


class TaskParams(Parameters):
    """What the model is taught."""

    name: str = "extraction"
    """The task: a package of odin_slm.tasks, or one that an installed package offers."""
    options: dict[str, Any] = {}
    """The task's own options; extraction takes entities, relations, synonyms, sources and default_source."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _task_exists(self) -> TaskParams:
        self.task()
        return self

    def task(self) -> Task:
        """Return the task; its sources are the project's corpora."""
        return _task(self.name, json.dumps(self.options, sort_keys=True))


class IngestionParams(Parameters):
    """From raw corpora to records."""

    corpora: tuple[str, ...] = ("ade", "bc5cdr", "biored")
    """Corpora that become records; the others stay empty."""
    options: dict[str, dict[str, Any]] = {}
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

    @model_validator(mode="after")
    def _known_corpora(self) -> IngestionParams:
        known = corpora.CORPORA
        for name in (*self.corpora, *self.options):
            if name not in known:
                raise ValueError(f"there is no corpus {name!r}; there are {', '.join(known)}.")
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


class CombinationParams(Parameters):
    """From records to one leak-free dataset."""

    drop_duplicates: bool = False
    """Leave out records whose input, apart from case and space, repeats an earlier one of the same split."""
    drop_empty: bool = False
    """Leave out records without entities from training."""
    normalise_text: bool = False
    """Put inputs and mentions into Unicode NFC, with plain spaces and quotes."""
    balance_by: Literal["none", "source", "type"] = "none"
    """Thin out training until no source (or entity type) has more records than the smallest one times balance_limit."""
    balance_limit: float = Field(default=3.0, ge=1.0)
    """How many times the smallest group the largest may be, where balance_by is on."""

    validation_ratio: float = Field(default=0.1, ge=0.0, lt=0.5)
    """Share of the document groups without official split that validate."""
    test_ratio: float = Field(default=0.1, ge=0.0, lt=0.5)
    """Share of them that test."""
    near_duplicate: float = Field(default=0.7, ge=0.05, le=1.0)
    """Jaccard similarity of character 5-grams from which two texts must stay together."""
    quality_profile: Literal["exploration", "ml-training", "publishing"] = "ml-training"
    """How strict the quality decision is."""
    seed: int = 42
    """Seed of the hash split and of the shuffle."""


class LoraParams(Parameters):
    """The adapter (Hu et al., 2021)."""

    r: int = Field(default=32, ge=1)
    """Rank."""
    alpha: int = Field(default=32, ge=1)
    """Scale: updates are multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout before the adapter's first matrix."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained."""
    task_type: Literal["CAUSAL_LM"] = "CAUSAL_LM"
    """What the adapter is for, as PEFT names it."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )
    """Linear layers that get an adapter; all-linear: every one but the head."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead (Kalajdzievski, 2023)."""
    dora: bool = False
    """Train magnitude and direction of the weights apart (Liu et al., 2024); slower."""


class TrainingParams(Parameters):
    """From base and records to an adapter."""

    backend: Literal["auto", "transformers", "unsloth"] = "auto"
    """What loads the base and trains; unsloth needs CUDA. auto takes it where it is installed and can run."""
    max_seq_length: int = Field(default=512, ge=64)
    """Longest example in tokens; a longer one stops the run, none is cut."""
    load_in_4bit: bool = False
    """Quantise the base to NF4 (CUDA only)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the frozen weights; auto is bfloat16 where CUDA has it, float32 elsewhere."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel; auto takes FlashAttention 2 where CUDA and flash-attn are there, else what the base prefers."""
    epochs: float = Field(default=3.5, gt=0.0)
    """Passes over the training split."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps, whatever the epochs."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 16
    """Examples of one forward pass; auto starts from 16 and halves it, doubling the accumulation, until it fits."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes of one optimizer step."""
    packing: Literal["auto"] | bool = "auto"
    """Whether examples of a batch share rows, kept apart by attention; auto: where rows would be padded else."""
    learning_rate: float = Field(default=3e-3, gt=0.0)
    """Peak learning rate."""
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    """How the rate falls after warm-up."""
    warmup_ratio: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the steps over which the rate rises."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Steps over which the rate rises, in place of the share."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are clipped to this norm."""
    optimizer: str = "auto"
    """Name as transformers knows it; auto is adamw_8bit for a 4-bit base, else AdamW, fused on CUDA."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic; auto takes bf16 where the hardware has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    logging_strategy: Literal["steps", "epoch"] = "steps"
    """Whether figures are logged after steps or at the end of epochs."""
    logging_steps: int = Field(default=10, ge=1)
    """Optimizer steps between log lines."""
    eval_strategy: Literal["steps", "epoch"] = "steps"
    """Whether the validation split is scored after steps or at the end of epochs."""
    eval_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between evaluations, in place of evaluations."""
    evaluations: int = Field(default=3, ge=1)
    """How often the validation split is scored, evenly over the run."""
    save_strategy: Literal["steps", "epoch"] = "steps"
    """Whether a checkpoint is saved after steps or at the end of epochs."""
    save_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints; None saves one with each evaluation."""
    save_total_limit: int = Field(default=2, ge=1)
    """Checkpoints kept, the best one among them."""
    load_best_model_at_end: bool = True
    """Keep the best checkpoint's adapter; false: the last step's."""
    metric_for_best_model: Literal["eval_loss"] = "eval_loss"
    """What the best checkpoint has the least of."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after this many evaluations in a row without a new best; None never stops early."""
    validation_samples: int | None = Field(default=200, ge=1)
    """Score at most this many validation records, drawn by the seed; None scores all."""
    generation_samples: int = Field(default=2, ge=0)
    """Outputs written for the first validation records at each evaluation, kept in the training state."""
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers besides MLflow, which every run has; each needs its own package."""
    launcher: Literal["none", "accelerate"] = "none"
    """Train in this process, or in several that accelerate launches, one for each CUDA device: DDP by default."""
    num_processes: int | None = Field(default=None, ge=1)
    """Processes to launch; None is one for each CUDA device, or what accelerate_config says."""
    accelerate_config: Path | None = None
    """accelerate's own configuration file, for FSDP2, DeepSpeed or several machines."""
    seed: int = 42
    """Seed of adapter weights, data order and dropout."""
    neftune_noise_alpha: float | None = Field(default=None, gt=0.0)
    """Noise on the embeddings while training (Jain et al., 2023), usually 5; None: none."""
    resume: bool = False
    """Continue the newest complete checkpoint of the same data and parameters; without one, start afresh."""
    oom: Literal["fail", "halve"] = "fail"
    """When the device's memory runs out: stop, or try once more with half the batch and twice the accumulation."""
    lora: LoraParams = LoraParams()
    """The adapter."""

    @model_validator(mode="after")
    def _launcher_options_are_read(self) -> TrainingParams:
        if self.launcher == "none" and (self.num_processes or self.accelerate_config):
            raise ValueError("num_processes and accelerate_config need launcher: accelerate.")
        return self

    @model_validator(mode="after")
    def _noise_is_of_one_example(self) -> TrainingParams:
        if self.packing is True and self.neftune_noise_alpha is not None:
            raise ValueError("packing weakens NEFTune's noise, which is scaled by a row's length: set one of them off.")
        return self

    @model_validator(mode="after")
    def _best_checkpoint_is_saved(self) -> TrainingParams:
        if not self.load_best_model_at_end:
            if self.early_stopping_patience:
                raise ValueError("early_stopping_patience needs load_best_model_at_end, which keeps the best so far.")
            return self
        apart = self.eval_strategy != self.save_strategy
        if not apart and self.eval_strategy == "steps" and self.save_steps is not None:
            apart = self.eval_steps is None or self.save_steps % self.eval_steps != 0
        if apart:
            raise ValueError(
                "load_best_model_at_end needs an evaluation wherever a checkpoint is saved: give eval_strategy and "
                "save_strategy the same value, and save_steps a multiple of eval_steps."
            )
        return self


class RangeParams(Parameters):
    """A range of numbers that a sweep draws from."""

    low: float
    """Least value."""
    high: float
    """Greatest value."""
    log: bool = False
    """Draw evenly over the orders of magnitude."""
    integer: bool = False
    """Draw whole numbers."""

    @model_validator(mode="after")
    def _low_is_lower(self) -> RangeParams:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be less than high, and positive where log is on.")
        return self

    def examples(self) -> tuple[float, ...]:
        """Return both ends as they are drawn, and a number between them that is not whole where such are drawn."""
        if self.integer:
            return int(self.low), int(self.high)
        return self.low, self.high, self.low + (self.high - self.low) / math.pi


class SweepParams(Parameters):
    """Which trainings are compared."""

    experiment: str = Field(min_length=1)
    """Name of the experiment; the best configuration becomes the environment <experiment>-best."""
    search: Literal["grid", "tpe"] = "grid"
    """Every combination, or what the tree-structured Parzen estimator draws (Bergstra et al., 2011)."""
    space: dict[str, RangeParams | tuple[int | float | str | bool | None, ...]] = Field(min_length=1)
    """Key of a training parameter, as lora.r, -> its values, or for tpe a range."""
    trials: int | None = Field(default=None, ge=1)
    """Trainings; None is every combination of a grid."""
    train_records: int | None = Field(default=None, ge=1)
    """Train each on the first so many records; None on all."""
    seed: int = 42
    """Seed of what is drawn."""

    @model_validator(mode="after")
    def _space_is_of_training(self) -> SweepParams:
        ranges = [key for key, values in self.space.items() if isinstance(values, RangeParams)]
        if self.search == "grid" and ranges:
            raise ValueError(f"a grid needs values, not a range, for {', '.join(ranges)}.")
        if self.search == "tpe" and self.trials is None:
            raise ValueError("tpe needs a number of trials.")
        if empty := [key for key, values in self.space.items() if values == ()]:
            raise ValueError(f"there are no values to draw for {', '.join(empty)}.")
        for key, values in self.space.items():
            for value in values.examples() if isinstance(values, RangeParams) else values:
                changed(TrainingParams(), {key: value})
        return self

    def count(self) -> int:
        """Return the number of trainings."""
        combinations = math.prod(len(values) for values in self.space.values() if not isinstance(values, RangeParams))
        return min(self.trials or combinations, combinations) if self.search == "grid" else self.trials or 0


def changed(params: TrainingParams, values: Mapping[str, Any]) -> TrainingParams:
    """Return the parameters with other values under dotted keys, checked again.

    Raises:
        ValueError: A key is none of theirs, or a value is out of range (pydantic's error names the key).
    """
    dumped = params.model_dump(mode="json")
    for key, value in values.items():
        group, _, last = key.rpartition(".")
        target = dumped.get(group) if group else dumped
        if not isinstance(target, dict) or last not in target:
            raise ValueError(f"training has no parameter {key!r}.")
        target[last] = value
    return TrainingParams.model_validate(dumped)


class EvaluationParams(Parameters):
    """From adapter and test set to predictions, scores and a report."""

    experiment: str = Field(min_length=1)
    """Name of the experiment, as the results give it."""
    decoding: Literal["free", "constrained", "both"] = "both"
    """Greedy decoding as the model likes, held to the input by a grammar, or both; the grammar's scores lead."""
    batch_size: int = Field(default=32, ge=1)
    """Outputs decoded together."""
    max_new_tokens: int | Literal["auto"] = "auto"
    """Budget of an output in tokens; auto is 1.25 times the longest gold output of the test set, plus 16."""
    num_samples: int | None = Field(default=None, ge=1)
    """Evaluate at most this many test records, drawn by the seed."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """What generates: our own batched decoding (CPU or one GPU), or vLLM, which has to be installed and needs a GPU."""
    calibration: Literal["isotonic", "temperature", "none"] = "isotonic"
    """How the probability of an output line becomes the chance that it is right; fitted on the validation split."""
    calibration_samples: int = Field(default=150, ge=1)
    """Extract from at most this many validation records for it, drawn by the seed."""
    significance: float = Field(default=0.05, gt=0.0, lt=1.0)
    """p-value below which a difference from the champion counts."""
    bootstrap_resamples: int = Field(default=1000, ge=100)
    """Resamples behind every interval."""
    seed: int = 42
    """Seed of the sample and of the bootstrap."""

    @model_validator(mode="before")
    @classmethod
    def _no_penalties(cls, values: Any) -> Any:
        for name in ("repetition_penalty", "no_repeat_ngram_size"):
            if isinstance(values, dict) and name in values:
                raise ValueError(f"{name} is not offered: an extraction must repeat the words of its input.")
        return values

    @model_validator(mode="after")
    def _positive_budget(self) -> EvaluationParams:
        if isinstance(self.max_new_tokens, int) and self.max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1, or auto.")
        return self


class ExtractionParams(Parameters):
    """From documents to shards of extractions."""

    engine: Literal["local", "ray"] = "local"
    """Who reads: this process, or Ray on the cores, machines or GPUs of a cluster."""
    workers: int = Field(default=0, ge=0)
    """Workers of Ray, each with the model in memory, at most; 0: one per GPU, or per core where there is none."""
    schema_name: str = Field(default="", alias="schema")
    """Types to look for: all of them, or what one corpus annotates; empty: what the model asks by default."""
    constrained: bool = True
    """Whether a grammar holds every output to its text."""
    text_field: str = Field(default="text", min_length=1)
    """Field of JSON Lines, column of CSV and Parquet, that holds the text."""
    id_field: str = Field(default="id", min_length=1)
    """Field or column that holds the id; a record without one is named by file and number."""
    keep_text: bool = True
    """Whether the shards hold the texts; their hashes stand there always."""
    shard_size: int = Field(default=256, ge=1)
    """Documents of a shard: what a killed job loses at most, and what is in memory at once."""
    batch_size: int = Field(default=32, ge=1)
    """Windows decoded together."""
    max_new_tokens: int = Field(default=256, ge=8)
    """Budget of an output in tokens."""
    window_tokens: int = Field(default=320, ge=32)
    """Tokens of a window's text; a longer document is read in several."""
    overlap: int = Field(default=1, ge=0, le=10)
    """Sentences that neighbouring windows share."""


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
    license_file: Path | None = None
    """Text of that licence, unless it is apache-2.0 or lies in the base's folder as LICENSE."""
    base_license: str | None = None
    """Hub licence id of a base whose card states none; you have read it elsewhere."""
    minimum_entity_f1: float = Field(default=0.0, ge=0.0, le=1.0)
    """A model with a lower micro F1 over entities is not staged."""
    maximum_parse_failure_rate: float = Field(default=0.2, ge=0.0, le=1.0)
    """Nor is one of whose outputs a larger share breaks the format or does not end."""
    replayed_predictions: int = Field(default=2, ge=0)
    """Predictions that the adapter is asked for again before it is staged; a push needs at least one."""
    checkpoint: str | None = Field(default=None, pattern=r"^checkpoint-\d+$")
    """Checkpoint of the training to release in place of the final adapter; its card then shows no scores."""
    export: Literal["none", "merged", "gguf"] = "none"
    """The adapter merged into the base's weights, in 16 bit; gguf: with llama.cpp's commands for a GGUF file."""
    export_tolerance: float = Field(default=0.01, ge=0.0, le=1.0)
    """How far the merged weights' micro F1 may be from the adapter's on the test records."""
    override: dict[str, Annotated[str, StringConstraints(strip_whitespace=True, min_length=10)]] = {}
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
        if self.export != "none" and self.checkpoint:
            raise ValueError("export needs the final adapter, whose scores the merged weights are held against.")
        if self.push and not (self.model_repo or self.dataset_repo):
            raise ValueError("push needs model_repo=OWNER/NAME, dataset_repo=OWNER/NAME, or both.")
        if self.push and self.model_repo and not self.replayed_predictions:
            raise ValueError("push needs replayed_predictions of at least 1.")
        return self


class ComparisonParams(Parameters):
    """All tracked runs side by side."""

    experiment: str | None = None
    """Only the runs of this experiment; None takes all."""


class PromotionParams(Parameters):
    """How a registered version becomes champion."""

    force: bool = False
    """Promote it whatever the paired test says."""
    reason: str = ""
    """Why it is forced; the registry's history keeps it."""
    rescore: bool = False
    """Let a champion of other data extract from this test set as well, and compare the two on it."""

    @model_validator(mode="after")
    def _reason_for_force(self) -> PromotionParams:
        if self.force and not self.reason.strip():
            raise ValueError("promotion.force needs promotion.reason=WHY, which the registry's history keeps.")
        return self


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
    """Peak rate of AdamW for the attention of the first two layers, which starts out copying."""
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
    """The base is the mean of the weights at so many of the last ends at which the rates had fallen to zero."""
    seed: int = 42
    """Seed of weights and data."""


class MixtureParams(Parameters):
    """Shares of the exercises of the curriculum; see odin_slm.pretraining.curriculum."""

    language: float = Field(default=0.08, ge=0.0)
    """Plain text."""
    gold: float = Field(default=0.40, ge=0.0)
    """Annotated training documents, mostly with other names in them."""
    lists: float = Field(default=0.0, ge=0.0)
    """Annotated training documents with enumerations in the place of names."""
    products: float = Field(default=0.0, ge=0.0)
    """The same, with both ends of a relation enumerated."""
    repeats: float = Field(default=0.0, ge=0.0)
    """Texts that say a few names again and again."""
    slips: float = Field(default=0.0, ge=0.0)
    """Outputs in which something has gone wrong already, to be gone on with rightly."""
    circles: float = Field(default=0.0, ge=0.0)
    """The same over long lists of relations that go round in circles."""
    glued: float = Field(default=0.0, ge=0.0)
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
    """One marked span to copy whose words stand elsewhere in the text too."""
    copy_odd: float = Field(default=0.0, ge=0.0)
    """One marked span to copy of digits, signs and capitals, or a word that stutters."""
    nothing: float = Field(default=0.03, ge=0.0)
    """Texts in which the schema finds nothing."""


class PhaseParams(Parameters):
    """What is learned over a part of the schedule."""

    until: float = Field(gt=0.0, le=1.0)
    """Share of the tokens at which the phase ends; 1 for the last."""
    prompt_share: float = Field(default=0.3, ge=0.0, le=1.0)
    """Share of the prompt tokens that are predicted too; completion tokens all are."""
    decision_weight: float = Field(default=1.0, gt=0.0)
    """How many times a token counts at which an output decides which name, type or end comes next."""
    restart: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the peak rates at which they begin anew, to fall to zero at the phase's end; 0: the schedule goes on."""
    mixture: MixtureParams = MixtureParams()
    """Share of each exercise."""


class PretrainingParams(Parameters):
    """From training documents and further text to the embedded base."""

    experiment: str = Field(min_length=1)
    """Name of the experiment, as the base's card gives it."""
    architecture: ArchitectureParams = ArchitectureParams()
    """Shape of the model."""
    schedule: ScheduleParams = ScheduleParams()
    """Length and rates."""
    phases: tuple[PhaseParams, ...] = Field(default=(PhaseParams(until=1.0),), min_length=1)
    """What it learns from, one phase after the other."""
    held_out: float = Field(default=0.02, gt=0.0, lt=0.5)
    """Share of the material kept out of training, for its evaluation loss."""
    probes: int = Field(default=200, ge=1)
    """Examples of each exercise in the closing test."""
    copy_probes: int = Field(default=1000, ge=1)
    """Single marked spans to copy in the closing test, with marks apart and as many with marks that touch them."""

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


class SampleParams(Parameters):
    """The embedded synthetic sample."""

    seed: int = 42
    """Seed of the generator."""
    documents_per_corpus: int = Field(default=700, ge=10)
    """Documents of each corpus."""
