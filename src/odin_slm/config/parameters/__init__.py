"""Typed parameters: one module per pipeline, whose models are checked before any node runs.

Kedro builds them from ``conf/<env>/parameters_<pipeline>.yml`` and ``--params``; an unknown key or a value out of range
stops the run and names the key. What a key means is said here, and the reference is made from it; the comments of
``conf/base`` are shorter, for whoever is about to change a value.
"""

from odin_slm.config.parameters.base import Parameters
from odin_slm.config.parameters.combination import CombinationParams
from odin_slm.config.parameters.comparison import ComparisonParams
from odin_slm.config.parameters.evaluation import EvaluationParams
from odin_slm.config.parameters.extraction import ExtractionParams
from odin_slm.config.parameters.ingestion import IngestionParams, options_of
from odin_slm.config.parameters.pretraining import (
    ArchitectureParams,
    MixtureParams,
    PhaseParams,
    PretrainingParams,
    ScheduleParams,
)
from odin_slm.config.parameters.promotion import PromotionParams
from odin_slm.config.parameters.publishing import PublishingParams
from odin_slm.config.parameters.review import MixParams, ReviewParams
from odin_slm.config.parameters.sample import SampleParams
from odin_slm.config.parameters.sweep import RangeParams, SweepParams, changed
from odin_slm.config.parameters.task import TaskParams
from odin_slm.config.parameters.training import LoraParams, TrainingParams

__all__ = [
    "ArchitectureParams",
    "CombinationParams",
    "ComparisonParams",
    "EvaluationParams",
    "ExtractionParams",
    "IngestionParams",
    "LoraParams",
    "MixParams",
    "MixtureParams",
    "Parameters",
    "PhaseParams",
    "PretrainingParams",
    "PromotionParams",
    "PublishingParams",
    "RangeParams",
    "ReviewParams",
    "SampleParams",
    "ScheduleParams",
    "SweepParams",
    "TaskParams",
    "TrainingParams",
    "changed",
    "options_of",
]
