"""Nodes of the pipeline join_training."""

from pathlib import Path

from odin_slm.config.parameters import TrainingParams
from odin_slm.core.runtime_environment import one_at_a_time
from odin_slm.models.base_model import BaseModel


@one_at_a_time
def lend_processes(base_model: BaseModel, training_work: Path, params: TrainingParams) -> None:
    """Lend this machine to a training that another one runs; return when it is over.

    Args:
        base_model: The base, as on the first machine.
        training_work: Folder for checkpoints.
        params: Which machines there are, and which one this is; all else the first machine decides.

    Raises:
        MachineLostError: A machine no longer answers.
    """
    from odin_slm.training.launcher import join

    join(base_model, training_work, params)
