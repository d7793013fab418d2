"""What happens around a run: tracking, artifacts, metrics, the closing summary."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import time
from collections import defaultdict
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl

from odin_slm.summary import RunSummary, print_summary

_DATA = frozenset({"train", "val", "test"})
_STAGES = ("ingestion", "combination", "training", "evaluation", "publishing")


class TrackingHook:
    """One MLflow run per ``kedro run``, opened and closed by kedro-mlflow's hook.

    kedro-mlflow 2.0 registers one hook object for the whole process. This one drives a fresh object per session, so
    that nothing of one session reaches the next, and adds what it leaves open:

    - typed parameters are logged value by value instead of as one text;
    - a run that an interrupt or another hook's failure left active is closed before anything else is logged;
    - the tags say what made the run (experiment, stage, commit, data), and no tag holds a path of this machine.
    """

    def __init__(self) -> None:
        self._mlflow: Any = None
        self._run_id: str | None = None
        self._experiment = ""
        self._root = Path()
        self._catalog: Any = None

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        """Prepare tracking; the tracking store is contacted here."""
        from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

        self._close_forgotten_run()
        self._mlflow = MlflowHook()
        self._mlflow.after_context_created(context)
        self._experiment = context.config_loader["globals"]["experiment"]
        self._root = Path(context.project_path)

    @hook_impl
    def after_catalog_created(
        self,
        catalog: Any,
        conf_catalog: dict[str, Any],
        conf_creds: dict[str, Any],
        parameters: dict[str, Any],
        save_version: str,
        load_versions: dict[str, str],
    ) -> None:
        """Name kedro-mlflow's metric datasets.

        Its hook builds every dataset of the catalog for that, which costs seconds, so it is asked only where there is
        one.
        """
        self._catalog = catalog
        if any("kedro_mlflow" in str(entry.get("type")) for entry in conf_catalog.values()):
            self._mlflow.after_catalog_created(
                catalog, conf_catalog, conf_creds, parameters, save_version, load_versions
            )

    @hook_impl(wrapper=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> Generator[None, Any, Any]:
        """Open the run, then let the other hooks prepare; their failure is the run's."""
        names = sorted(run_params.get("pipeline_names") or ["__default__"])
        foreign = {"project_path": None, "runner": None, "runtime_params": None, "pipeline_names": names}
        self._mlflow.before_pipeline_run({**run_params, **foreign}, pipeline, catalog)
        self._tag_run(run_params, names, pipeline)
        try:
            return (yield)
        except BaseException as error:
            self._fail(error, run_params, pipeline, catalog)
            raise

    @hook_impl(tryfirst=True)
    def before_node_run(self, node: Any, catalog: Any, inputs: dict[str, Any], is_async: bool) -> None:
        """Log the node's parameters, flattened under their pipeline's name."""
        if self._mlflow is not None:  # None in the worker processes of ParallelRunner
            plain = {name: _plain(value) for name, value in inputs.items() if name.startswith("params:")}
            self._mlflow.before_node_run(node, catalog, plain, is_async)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Tag the run with the data it has just made."""
        if dataset_name == "manifest":
            self._tag_data()

    @hook_impl(wrapper=True)
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> Generator[None, Any, Any]:
        """Let the other hooks use the open run, then close it."""
        try:
            result = yield
        except BaseException as error:
            self._fail(error, run_params, pipeline, catalog)
            raise
        self._mlflow.after_pipeline_run(run_params, pipeline, catalog)
        self._run_id = None
        return result

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> None:
        """Close the run as FAILED."""
        self._fail(error, run_params, pipeline, catalog)

    def _tag_run(self, run_params: Mapping[str, Any], names: list[str], pipeline: Any) -> None:
        import mlflow

        active = mlflow.active_run()
        if active is None:  # tracking is off for this pipeline
            return
        if not self._mlflow._already_active_mlflow:  # an orchestrator's run is the orchestrator's to close
            self._run_id = active.info.run_id
        tags = {
            "experiment": self._experiment,
            "stage": "+".join(names),
            "kedro_command": _command(run_params, self._root),
            "mlflow.source.name": "kedro run",
            **_git_state(self._root),
        }
        parameters = run_params.get("runtime_params")
        if parameters:
            tags["runtime_params"] = _written(parameters, self._root)
        mlflow.set_tags(tags)
        if _DATA & pipeline.datasets() and "manifest" not in pipeline.all_outputs():
            self._tag_data()

    def _tag_data(self) -> None:
        import mlflow

        path = local_path(self._catalog, "manifest")
        if path and path.is_file() and mlflow.active_run():
            mlflow.set_tag("data_manifest_sha256", hashlib.sha256(path.read_bytes()).hexdigest())

    def _fail(self, error: BaseException, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> None:
        if self._mlflow is not None and self._run_id is not None:
            self._run_id = None
            self._mlflow.on_pipeline_error(error, run_params, pipeline, catalog)

    def _close_forgotten_run(self) -> None:
        # Kedro tells no hook of a KeyboardInterrupt, as a notebook's stop button raises it.
        if self._run_id is not None:
            end_active_run("KILLED", self._run_id)
            self._run_id = None


class ArtifactsHook:
    """Log every saved dataset whose catalog entry asks for it.

    The entry says ``metadata: {mlflow: {artifact_path: FOLDER}}``; without ``artifact_path`` the file lies at the top
    of the run's artifacts.
    """

    def __init__(self) -> None:
        self._catalog: Any = None

    @hook_impl
    def after_catalog_created(self, catalog: Any) -> None:
        """Remember the session's catalog."""
        self._catalog = catalog

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Copy the dataset's file or folder into the run."""
        dataset = self._catalog.get(dataset_name, fallback_to_runtime_pattern=True)
        options = (getattr(dataset, "metadata", None) or {}).get("mlflow")
        path = local_path(self._catalog, dataset_name)
        if options is None or path is None:
            return
        import mlflow

        if mlflow.active_run():
            log = mlflow.log_artifacts if path.is_dir() else mlflow.log_artifact
            log(str(path), artifact_path=options.get("artifact_path"))


class EvaluationMetricsHook:
    """Log the scores when ``evaluation_results`` is saved."""

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log each score once, with the ends of its interval."""
        if dataset_name != "evaluation_results":
            return
        import mlflow

        if mlflow.active_run():
            mlflow.log_metrics(evaluation_metrics(data))


class PublicationHook:
    """Tag the run with the repositories and commits on the Hub when ``publication`` is saved."""

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Set the tags."""
        if dataset_name != "publication":
            return
        import mlflow

        from odin_slm.engines.publishing import publication_tags

        published = [data[kind] for kind in ("dataset", "model") if data[kind]["published"]]
        if published and mlflow.active_run():
            mlflow.set_tags(publication_tags(published))


class SummaryHook:
    """Say at the end of a run that evaluated or staged something what it found and where that lies."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._started = 0.0
        self._root = Path()
        self._experiment = ""

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Remember the project."""
        self._root = Path(context.project_path)
        self._experiment = context.config_loader["globals"]["experiment"]

    @hook_impl
    def before_pipeline_run(self) -> None:
        """Start the clocks."""
        self._seconds = defaultdict(float)
        self._started = time.perf_counter()

    @hook_impl
    def after_node_run(self, node: Any) -> None:
        """Count the time since the last node, reading and writing included, for the node's pipeline."""
        now = time.perf_counter()
        self._seconds[_stage(node)] += now - self._started
        self._started = now

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> None:
        """Print the summary."""
        names = pipeline.datasets()
        if not names & {"evaluation_results", "model_release"}:
            return
        import mlflow

        active = mlflow.active_run()
        places = {
            name: os.path.relpath(path, self._root)
            for name in ("report", "adapter", "model_release", "dataset_release")
            if name in names and (path := local_path(catalog, name)) and path.exists()
        }
        if "publication" in names and catalog.exists("publication"):
            places |= hub_places(catalog.load("publication"))
        print_summary(
            RunSummary(
                experiment=self._experiment,
                env=run_params.get("env"),
                values={name: catalog.load(name) for name in sorted(names & RunSummary.READS) if catalog.exists(name)},
                places=places,
                tracking=(mlflow.get_experiment(active.info.experiment_id).name, active.info.run_id)
                if active
                else None,
                seconds={stage: self._seconds[stage] for stage in (*_STAGES, "other") if stage in self._seconds},
            )
        )


def hub_places(publication: Mapping[str, Any]) -> dict[str, str]:
    """Return where the published repositories lie, at which commit, and whether others see them."""
    places = {}
    for kind in ("model", "dataset"):
        found = publication[kind]
        if found["published"]:
            seen = "private" if found["private"] else "public"
            places[f"hub_{kind}"] = f"{found['repo_id']} at {found['revision'][:12]}, {seen}, verified"
    return places


def evaluation_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Flatten evaluation results to the metrics of a run.

    Args:
        results: The value of ``evaluation_results``; see :func:`odin_slm.scoring.evaluate`.

    Returns:
        ``entity_f1_micro``, ``entity_precision_macro``, … and the same for relations; ``…_low`` and ``…_high`` for the
        ends of an interval; rates of faulty outputs; ``free_…`` for the second, free decoding, ``base_…`` and
        ``base_free_…`` for the base model; ``difference_…`` for fine-tuned minus base.
    """
    base = results.get("base") or {}
    kinds = {"": results, "free_": results.get("free"), "base_": base, "base_free_": base.get("free")}
    metrics = {
        f"{kind}{name}": value for kind, values in kinds.items() for name, value in _scores(values or {}).items()
    }
    for name, difference in (results.get("difference") or {}).items():
        metrics[f"difference_{name}"] = difference["value"]
        metrics |= _ends(f"difference_{name}", difference["interval"])
    metrics["test_examples"] = results["test_set"]["examples"]
    return {name: float(value) for name, value in metrics.items()}


def _scores(results: Mapping[str, Any]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for kind in ("entity", "relation"):
        for average in ("micro", "macro"):
            values = results.get(f"{kind}_metrics", {}).get(average, {})
            for measure in ("precision", "recall", "f1"):
                if measure in values:
                    scores[f"{kind}_{measure}_{average}"] = values[measure]
    for name, interval in (results.get("intervals") or {}).items():
        scores |= _ends(name, interval)
    for name, value in (results.get("output_quality") or {}).items():
        if name.endswith("_rate"):
            scores[name] = value
    return scores


def _ends(name: str, interval: Any) -> dict[str, float]:
    low, high = interval
    return {f"{name}_low": low, f"{name}_high": high}


def local_path(catalog: Any, name: str) -> Path | None:
    """Return where a dataset of the catalog lies on this disk, or None where it has no path."""
    dataset = catalog.get(name, fallback_to_runtime_pattern=True)
    if hasattr(dataset, "_get_load_path"):  # versioned
        return Path(dataset._get_load_path())
    path = getattr(dataset, "_filepath", None)
    return Path(path) if path else None


def end_active_run(status: str, run_id: str | None = None) -> None:
    """Close this thread's active MLflow run, if there is one and it is ``run_id`` where that is given.

    MLflow itself closes it at the end of the process, as FINISHED whatever happened.

    Args:
        status: ``FAILED`` or ``KILLED``.
        run_id: The only run that may be closed.
    """
    import mlflow

    active = mlflow.active_run()
    if active and run_id in (None, active.info.run_id):
        mlflow.end_run(status)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _stage(node: Any) -> str:
    return next((stage for stage in _STAGES if stage in node.tags), "other")


def _git_state(root: Path) -> dict[str, str]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(bool(changed)).lower()}
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": "unknown", "git_dirty": "unknown"}  # a downloaded archive, or no git


def _command(run_params: Mapping[str, Any], root: Path) -> str:
    words = ["kedro", "run"]
    if run_params.get("env"):
        words += ["--env", run_params["env"]]
    for option in ("pipeline_names", "tags", "from_nodes", "to_nodes", "node_names", "from_inputs", "to_outputs"):
        if run_params.get(option):
            name = {"pipeline_names": "pipelines", "node_names": "nodes"}.get(option, option.replace("_", "-"))
            words += [f"--{name}", ",".join(sorted(run_params[option]))]
    if run_params.get("runtime_params"):
        words += ["--params", _written(run_params["runtime_params"], root)]
    return shlex.join(words)


def _written(parameters: Mapping[str, Any], root: Path, prefix: str = "") -> str:
    written = []
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            written.append(_written(value, root, f"{prefix}{name}."))
        else:
            written.append(f"{prefix}{name}={_without_root(value, root)}")
    return ",".join(written)


def _without_root(value: Any, root: Path) -> Any:
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path = Path(value)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else f"…/{path.name}"
