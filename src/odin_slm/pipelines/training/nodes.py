"""Nodes of the training pipeline."""

from pathlib import Path
from typing import Any

from odin_slm.engines.base_model import BaseModel
from odin_slm.parameters import TrainingParams
from odin_slm.record import Record


def train_adapter(
    base_model: BaseModel, train: list[Record], val: list[Record], training_work: Path, params: TrainingParams
) -> tuple[Path, dict[str, Any]]:
    """Train a LoRA adapter and keep the checkpoint with the least validation loss.

    Args:
        base_model: The frozen base.
        train: Training records.
        val: Validation records.
        training_work: Folder for checkpoints.
        params: Hyper-parameters.

    Returns:
        Folder of the adapter and its tokenizer; the state of training: history, best step, time, tokens, settings.
    """
    from odin_slm.engines.training import train_lora

    return train_lora(base_model, train, val, training_work, params, _log)


def _log(step: int, figures: dict[str, float]) -> None:
    import mlflow

    if mlflow.active_run():
        names = {"loss": "train_loss", "grad_norm": "gradient_norm"}
        mlflow.log_metrics({names.get(name, name): value for name, value in figures.items()}, step=step)
