"""What happens around a run: tracking, artifacts, metrics, failures, the closing summary."""

from odin_slm.hooks.artifacts import ArtifactsHook
from odin_slm.hooks.errors import ErrorsHook
from odin_slm.hooks.results import ResultsHook
from odin_slm.hooks.summary import SummaryHook
from odin_slm.hooks.tracking import TrackingHook
from odin_slm.hooks.work import WorkFolderHook

__all__ = [
    "ArtifactsHook",
    "ErrorsHook",
    "ResultsHook",
    "SummaryHook",
    "TrackingHook",
    "WorkFolderHook",
]
