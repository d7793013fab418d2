"""Whatever goes wrong, no MLflow run stays open, and a failed one is not closed as FINISHED."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from kedro.framework.hooks import hook_impl

from odin_slm.hooks.run_state import state_of


class ErrorsHook:
    """Close the run that a failure or an interrupt leaves open."""

    def __init__(self) -> None:
        self._open: str | None = None

    @hook_impl(tryfirst=True)
    def after_context_created(self) -> None:
        """Close the run of a session before: Kedro tells no hook of a KeyboardInterrupt, as of a notebook's button."""
        if self._open is not None:
            end_active_run("KILLED", self._open)
            self._open = None

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(self, catalog: Any) -> Generator[None, Any, Any]:
        """Remember the run; the failure of a hook that prepares is the run's."""
        try:
            return (yield)
        except BaseException:
            self._fail(catalog)
            raise
        finally:
            state = state_of(catalog)
            self._open = state.run_id if state and state.owned else None

    @hook_impl(wrapper=True, tryfirst=True)
    def after_pipeline_run(self, catalog: Any) -> Generator[None, Any, Any]:
        """Forget the run; the failure of a hook that concludes is the run's."""
        try:
            return (yield)
        except BaseException:
            self._fail(catalog)
            raise
        finally:
            self._open = None

    @hook_impl(trylast=True)
    def on_pipeline_error(self, catalog: Any) -> None:
        """Close the run as FAILED, after the other hooks have used it."""
        self._fail(catalog)
        self._open = None

    def _fail(self, catalog: Any) -> None:
        state = state_of(catalog)
        if state and state.owned and state.run_id:
            end_active_run("FAILED", state.run_id)


def end_active_run(status: str, run_id: str | None = None) -> None:
    """Close this thread's active MLflow run with the runs below it.

    MLflow itself closes them at the end of the process, as FINISHED whatever happened.

    Args:
        status: ``FAILED`` or ``KILLED``.
        run_id: The only run that may be closed; None closes any.
    """
    import mlflow

    while active := mlflow.active_run():
        if run_id not in (None, active.info.run_id, active.data.tags.get("mlflow.parentRunId")):
            return
        mlflow.end_run(status)
