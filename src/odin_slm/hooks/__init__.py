"""What happens around a run: tracking, artifacts, metrics, the closing summary."""

from odin_slm.hooks.run_hooks import ArtifactsHook, EvaluationMetricsHook, PublicationHook, SummaryHook, TrackingHook

__all__ = ["ArtifactsHook", "EvaluationMetricsHook", "PublicationHook", "SummaryHook", "TrackingHook"]
