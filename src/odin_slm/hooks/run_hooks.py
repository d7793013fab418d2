"""What happens around a run: tracking, artifacts, metrics, the closing summary."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.hooks import hook_impl

from odin_slm.core.hashing import canonical_json
from odin_slm.core.redaction import Portable
from odin_slm.reporting.summary import RunSummary, print_summary

_DATA = {"train": "training", "val": "validation", "test": "evaluation"}
"""Split -> what MLflow calls its use."""
_DIGEST = 36
"""Characters that MLflow keeps of a dataset's digest."""
_LONGEST_PARAMETER = 6000
"""Characters; a longer one becomes a tag."""
_TEXTS = frozenset({".csv", ".html", ".json", ".jsonl", ".md", ".txt", ".yml"})
_STAGES = ("ingestion", "combination", "training", "evaluation", "publishing")


class TrackingHook:
    """One MLflow run per ``kedro run``, opened and closed by kedro-mlflow's hook.

    kedro-mlflow 2.0 registers one hook object for the whole process. This one drives a fresh object per session, so
    that nothing of one session reaches the next, and adds what it leaves open:

    - typed parameters are logged value by value instead of as one text;
    - a run that an interrupt or another hook's failure left active is closed before anything else is logged;
    - the tags say what made the run (experiment, stage, commit, data, machine), the resolved configuration and the
      library versions are artifacts, the splits are MLflow datasets with their digests;
    - nothing that is tracked holds a path of this machine or a secret.
    """

    def __init__(self) -> None:
        self._mlflow: Any = None
        self._run_id: str | None = None
        self._experiment = ""
        self._root = Path()
        self._catalog: Any = None
        self._configuration: dict[str, Any] = {}
        self._parameters: set[str] = set()
        self._credentials: dict[str, Any] = {}
        self._portable = Portable(Path())

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        """Prepare tracking; the tracking store is contacted here."""
        import mlflow
        from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

        self._close_forgotten_run()
        mlflow.enable_system_metrics_logging()
        self._mlflow = MlflowHook()
        self._mlflow.after_context_created(context)
        self._configuration = {name: context.config_loader[name] for name in ("globals", "parameters")}
        self._experiment = self._configuration["globals"]["experiment"]
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
        self._configuration["catalog"] = conf_catalog
        self._credentials = conf_creds or {}
        if any("kedro_mlflow" in str(entry.get("type")) for entry in conf_catalog.values()):
            self._mlflow.after_catalog_created(
                catalog, conf_catalog, conf_creds, parameters, save_version, load_versions
            )

    @hook_impl(wrapper=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> Generator[None, Any, Any]:
        """Open the run, then let the other hooks prepare; their failure is the run's."""
        names = sorted(run_params.get("pipeline_names") or ["__default__"])
        self._portable = Portable(self._root, run_params.get("runtime_params"), self._credentials)
        self._parameters = set()
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
            self._mlflow.before_node_run(node, catalog, {}, is_async)  # it opens the run in a thread of its own
            taken = {name[7:]: _plain(value) for name, value in inputs.items() if name.startswith("params:")}
            self._log_parameters(dict(_flat(self._portable.value(taken))))

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Tag the run with the data it has just made."""
        if dataset_name == "manifest":
            self._tag_data(_DATA)

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

        from odin_slm.tracking.run_environment import library_versions, machine_facts

        active = mlflow.active_run()
        if active is None:  # tracking is off for this pipeline
            return
        if not self._mlflow._already_active_mlflow:  # an orchestrator's run is the orchestrator's to close
            self._run_id = active.info.run_id
        tags = {
            "experiment": self._experiment,
            "stage": "+".join(names),
            "model_version": "none",  # until it is registered
            "kedro_command": self._portable.text(_command(run_params, self._portable)),
            "mlflow.source.name": "kedro run",
            **_git_state(self._root),
        }
        parameters = run_params.get("runtime_params")
        if parameters:
            tags["runtime_params"] = self._portable.text(_written(parameters, self._portable))
        tags |= {f"system.{name}": fact for name, fact in machine_facts().items()}
        mlflow.set_tags(tags)
        for name, values in self._configuration.items():
            written = yaml.safe_dump(self._portable.value(_simple(values)), sort_keys=False, allow_unicode=True)
            mlflow.log_text(written, f"configuration/{name}.yml")
        mlflow.log_text(canonical_json(library_versions()), "environment/libraries.json")
        used = _DATA.keys() & pipeline.datasets()
        elsewhere = (parameters or {}).get("test_data")  # the records named there are none of the manifest's
        if used and not elsewhere and "manifest" not in pipeline.all_outputs():
            self._tag_data(used)

    def _log_parameters(self, parameters: Mapping[str, str]) -> None:
        """Log parameters that no node has named yet, all at once: kedro-mlflow writes them one by one."""
        import mlflow
        from mlflow.entities import Param, RunTag

        new = {name: value for name, value in parameters.items() if name not in self._parameters}
        active = mlflow.active_run()
        if not new or active is None or not self._mlflow._is_mlflow_enabled:
            return
        self._parameters |= set(new)
        long = [name for name, value in new.items() if len(value) > _LONGEST_PARAMETER]
        mlflow.MlflowClient().log_batch(
            active.info.run_id,
            params=[Param(name, value) for name, value in new.items() if name not in long],
            tags=[RunTag(name, new[name]) for name in long],
        )

    def _tag_data(self, used: Iterable[str]) -> None:
        """Tag the run with the hash of the manifest, and log the splits that it names as MLflow's inputs."""
        import mlflow
        from mlflow.entities import Dataset, DatasetInput, InputTag

        active, path = mlflow.active_run(), local_path(self._catalog, "manifest")
        if active is None or path is None or not path.is_file():
            return
        content = path.read_bytes()
        mlflow.set_tag("data_manifest_sha256", hashlib.sha256(content).hexdigest())
        manifest = json.loads(content)
        folder = self._portable.path(str(path.parent))
        inputs = []
        for split in sorted(used):
            if digest := manifest.get("outputs", {}).get(f"{split}.json"):
                made = Dataset(
                    name=f"{self._experiment}/{split}",
                    digest=digest[:_DIGEST],
                    source_type="local",
                    source=json.dumps({"uri": f"{folder}/{split}.json"}),
                    profile=json.dumps(manifest.get("counts", {}).get(split)),
                )
                inputs.append(DatasetInput(made, [InputTag("mlflow.data.context", _DATA[split])]))
        if inputs:
            mlflow.MlflowClient().log_inputs(active.info.run_id, inputs)

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
        self._credentials: dict[str, Any] = {}
        self._root = Path()
        self._portable = Portable(Path())

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Remember the project."""
        self._root = Path(context.project_path)

    @hook_impl
    def after_catalog_created(self, catalog: Any, conf_creds: dict[str, Any]) -> None:
        """Remember the session's catalog."""
        self._catalog = catalog
        self._credentials = conf_creds or {}

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Learn what must not leave this machine."""
        self._portable = Portable(self._root, run_params.get("runtime_params"), self._credentials)

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
            with tempfile.TemporaryDirectory() as folder:
                path = _portable_copy(path, Path(folder) / path.name, self._portable)
                log = mlflow.log_artifacts if path.is_dir() else mlflow.log_artifact
                log(str(path), artifact_path=options.get("artifact_path"))


class EvaluationMetricsHook:
    """Log the scores when ``evaluation_results`` is saved."""

    def __init__(self) -> None:
        self._parameters: Any = None

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Remember what the model is taught."""
        self._parameters = context.params.get("task", "extraction")

    def _task(self) -> Any:
        from odin_slm.config.parameters import TaskParams

        return TaskParams.model_validate(self._parameters).task()

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log each score once, with the ends of its interval."""
        if dataset_name != "evaluation_results":
            return
        import mlflow

        if mlflow.active_run():
            mlflow.log_metrics(self._task().tracked(data))


class PublicationHook:
    """Tag the run with the repositories and commits on the Hub when ``publication`` is saved."""

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Set the tags."""
        if dataset_name != "publication":
            return
        import mlflow

        from odin_slm.hub.upload import publication_tags

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


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(inner)


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


def _command(run_params: Mapping[str, Any], portable: Portable) -> str:
    words = ["kedro", "run"]
    if run_params.get("env"):
        words += ["--env", run_params["env"]]
    for option in ("pipeline_names", "tags", "from_nodes", "to_nodes", "node_names", "from_inputs", "to_outputs"):
        if run_params.get(option):
            name = {"pipeline_names": "pipelines", "node_names": "nodes"}.get(option, option.replace("_", "-"))
            words += [f"--{name}", ",".join(sorted(run_params[option]))]
    if run_params.get("runtime_params"):
        words += ["--params", _written(run_params["runtime_params"], portable)]
    return shlex.join(words)


def _written(parameters: Mapping[str, Any], portable: Portable, prefix: str = "") -> str:
    written = []
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            written.append(_written(value, portable, f"{prefix}{name}."))
        else:
            written.append(f"{prefix}{name}={portable.path(value) if isinstance(value, str) else value}")
    return ",".join(written)


def _simple(value: Any) -> Any:
    """Return a nested value of plain types, as YAML writes them."""
    if isinstance(value, Mapping):
        return {str(key): _simple(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_simple(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _portable_copy(path: Path, copy: Path, portable: Portable) -> Path:
    """Return the file or folder itself, or a copy without paths and secrets where a text of it holds some."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    for file in files:
        if file.suffix in _TEXTS:
            text = file.read_text(encoding="utf-8")
            if (replaced := portable.text(text)) != text:
                if path.is_dir() and not copy.exists():
                    shutil.copytree(path, copy)
                target = copy / file.relative_to(path) if path.is_dir() else copy
                target.write_text(replaced, encoding="utf-8", newline="\n")
    return copy if copy.exists() else path
