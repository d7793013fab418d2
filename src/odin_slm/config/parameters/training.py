"""From base and records to an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from odin_slm.config.parameters.base import Parameters


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
    """What loads the base and trains; auto takes unsloth where it is installed and there is CUDA, else transformers."""
    method: Literal["lora", "full"] = "lora"
    """Train an adapter beside the frozen base, or all weights of the base themselves; full ignores lora."""
    from_adapter: Path | None = None
    """Folder of an adapter of the same base and of the same settings to train further; None starts with a new one."""
    max_seq_length: int = Field(default=512, ge=64)
    """Longest example in tokens; a longer one stops the run, none is cut."""
    load_in_4bit: bool = False
    """Quantise the base to NF4, by bitsandbytes, on CUDA or a CPU: less memory, and on a CPU more time."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the frozen weights; auto is bfloat16 where CUDA has it, float32 elsewhere, and for full."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel; auto takes FlashAttention 2 where CUDA and flash-attn are there, else what the base prefers."""
    epochs: float = Field(default=2.25, gt=0.0)
    """Passes over the training split."""
    repeats: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Source, or type of entity or relation -> how often a pass has each record of it; of several the largest holds."""
    swap_names: float = Field(default=0.0, ge=0.0, le=1.0)
    """Chance of each name in a record's copies, all but the first of ``repeats``, to become another of its type."""
    max_steps: int | None = Field(default=None, ge=1)
    """Take this many optimizer steps, whatever the epochs."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 16
    """Examples of one forward pass; auto starts from 16 and halves it, doubling the accumulation, until it fits."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes of one optimizer step."""
    packing: Literal["auto"] | bool = "auto"
    """Whether examples share rows in TRL's step, kept apart by attention; auto: our own step on a CPU, else shared."""
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
    """Name as transformers knows it; auto is adamw_8bit for a 4-bit base, else AdamW, fused on CUDA and for full."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic; auto takes bf16 where CUDA has it, or where this CPU is faster in it, which is timed."""
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
    metric_for_best_model: Literal["eval_loss", "task"] = "eval_loss"
    """By what the best checkpoint is chosen: least validation loss, or the task's headline figure (entity F1)."""
    task_metric_samples: int = Field(default=64, ge=1)
    """Validation records that task reads by constrained decoding at each validation, drawn by the seed."""
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
    """Processes to launch, on all machines together; None: one for each CUDA device, or what accelerate_config says."""
    accelerate_config: Path | None = None
    """accelerate's own configuration file, for FSDP2, DeepSpeed or several machines."""
    machine_rank: int | None = Field(default=None, ge=0)
    """Number of this machine among several, counted from 0, in place of the one in accelerate_config."""
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
    def _trained_weights_are_whole(self) -> TrainingParams:
        if self.method == "full" and self.load_in_4bit:
            raise ValueError(
                "method: full trains the weights themselves, and four bits are too few: set load_in_4bit "
                "to false, or method to lora."
            )
        return self

    @model_validator(mode="after")
    def _copies_are_renamed(self) -> TrainingParams:
        if self.swap_names and max(self.repeats.values(), default=1) < 2:
            raise ValueError("swap_names renames copies of records: have repeats make some, as {ade: 2}.")
        return self

    @model_validator(mode="after")
    def _only_adapters_are_continued(self) -> TrainingParams:
        if self.method == "full" and self.from_adapter:
            raise ValueError("method: full has no adapter to go on from: name the whole model as base_model instead.")
        return self

    @model_validator(mode="after")
    def _launcher_options_are_read(self) -> TrainingParams:
        if self.launcher == "none" and (self.num_processes or self.accelerate_config):
            raise ValueError("num_processes and accelerate_config need launcher: accelerate.")
        if self.machine_rank is not None and not self.accelerate_config:
            raise ValueError("machine_rank needs accelerate_config, which names the machines.")
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
            apart = self.save_steps != self.eval_steps
        if apart:
            raise ValueError(
                "load_best_model_at_end needs a checkpoint of every evaluation, or the best may be lost: give "
                "eval_strategy and save_strategy the same value, and save_steps that of eval_steps, or null."
            )
        return self
