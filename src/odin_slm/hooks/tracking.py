"""One MLflow run per ``kedro run``: what made it, with which parameters and data."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.hooks import hook_impl

from odin_slm.core.hashing import canonical_json
from odin_slm.core.redaction import Redactor
from odin_slm.core.tracker import Tracker, report_to
from odin_slm.hooks.artifacts import local_path
from odin_slm.hooks.run_state import RunState, put_state, state_of

_DATA = {"train": "training", "val": "validation", "test": "evaluation"}
"""Split -> what MLflow calls its use."""
_DIGEST = 36
"""Characters that MLflow keeps of a dataset's digest."""
_LONGEST_PARAMETER = 6000
"""Characters; a longer one becomes a tag."""


class TrackingHook:
    """One MLflow run per ``kedro run``, opened and closed by kedro-mlflow's hook.

    kedro-mlflow 2.0 registers one hook object for the whole process. This one drives a fresh object per session, so
    that nothing of one session reaches the next, and adds what it leaves open:

    - typed parameters are logged value by value instead of as one text, once for the whole run;
    - every thread and process that runs nodes logs into the one run, and so do jobs that report to a
      :class:`odin_slm.core.tracker.Tracker`;
    - the tags say what made the run (experiment, stage, commit, data, machine), the resolved configuration and the
      library versions are artifacts, the splits are MLflow datasets with their digests;
    - nothing that is tracked holds a path of this machine or a secret.
    """

    def __init__(self) -> None:
        self._mlflow: Any = None
        self._catalog: Any = None
        self._configuration: dict[str, Any] = {}
        self._credentials: dict[str, Any] = {}
        self._root = Path()
        self._orchestrated = False

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        """Prepare tracking; the tracking store is contacted here."""
        import mlflow
        from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

        self._orchestrated = mlflow.active_run() is not None
        mlflow.enable_system_metrics_logging()
        self._mlflow = MlflowHook()
        self._mlflow.after_context_created(context)
        self._configuration = {name: context.config_loader[name] for name in ("globals", "parameters")}
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
        self._configuration["catalog"] = conf_catalog
        self._credentials = conf_creds or {}
        if any("kedro_mlflow" in str(entry.get("type")) for entry in conf_catalog.values()):
            self._mlflow.after_catalog_created(
                catalog, conf_catalog, conf_creds, parameters, save_version, load_versions
            )

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> None:
        """Open the run, and say in it what it is."""
        from odin_slm.tracking.mlflow_tracker import MlflowTracker

        names = sorted(run_params.get("pipeline_names") or ["__default__"])
        foreign = {"project_path": None, "runner": None, "runtime_params": None, "pipeline_names": names}
        self._mlflow.before_pipeline_run({**run_params, **foreign}, pipeline, catalog)
        state = RunState(
            root=self._root,
            experiment=self._configuration["globals"]["experiment"],
            run_id=self._mlflow.run_id,
            owned=not self._orchestrated,
            redactor=Redactor(self._root, run_params.get("runtime_params"), self._credentials),
        )
        put_state(catalog, state)
        if state.run_id is None:  # tracking is off for this pipeline
            return
        report_to(MlflowTracker())
        self._catalog = catalog
        self._tag_run(state, run_params, names, pipeline)
        taken = {name: catalog.load(name) for name in sorted(pipeline.inputs()) if name.startswith("params:")}
        plain = {name.removeprefix("params:"): _plain(value) for name, value in taken.items()}
        _log_parameters(state.run_id, dict(_flat(state.redactor.value(plain))))

    @hook_impl(tryfirst=True)
    def before_node_run(self, catalog: Any) -> None:
        """Let this thread, or this worker process, log into the run."""
        import mlflow

        from odin_slm.tracking.mlflow_tracker import MlflowTracker

        self._catalog, state = catalog, state_of(catalog)
        if state and state.run_id and mlflow.active_run() is None:
            mlflow.start_run(run_id=state.run_id, log_system_metrics=False)
            report_to(MlflowTracker())

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Tag the run with the data it has just made."""
        state = state_of(self._catalog)
        if dataset_name == "manifest" and state and state.run_id:
            self._tag_data(state, _DATA)

    @hook_impl(wrapper=True)
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> Generator[None, Any, Any]:
        """Let the other hooks use the open run, then close it."""
        result = yield
        report_to(Tracker())
        self._mlflow.after_pipeline_run(run_params, pipeline, catalog)
        return result

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Stop reporting; :class:`odin_slm.hooks.errors.ErrorsHook` closes the run."""
        report_to(Tracker())

    def _tag_run(self, state: RunState, run_params: Mapping[str, Any], names: list[str], pipeline: Any) -> None:
        import mlflow

        from odin_slm.tracking.run_environment import library_versions, machine_facts

        redactor = state.redactor
        tags = {
            "experiment": state.experiment,
            "stage": "+".join(names),
            "model_version": "none",  # until it is registered
            "kedro_command": redactor.text(_command(run_params, redactor)),
            "mlflow.source.name": "kedro run",
            **_git_state(state.root),
        }
        parameters = run_params.get("runtime_params")
        if parameters:
            tags["runtime_params"] = redactor.text(_written(parameters, redactor))
        tags |= {f"system.{name}": fact for name, fact in machine_facts().items()}
        mlflow.set_tags(tags)
        for name, values in self._configuration.items():
            written = yaml.safe_dump(redactor.value(_simple(values)), sort_keys=False, allow_unicode=True)
            mlflow.log_text(written, f"configuration/{name}.yml")
        mlflow.log_text(canonical_json(library_versions()), "environment/libraries.json")
        used = _DATA.keys() & pipeline.datasets()
        elsewhere = (parameters or {}).get("test_data")  # the records named there are none of the manifest's
        if used and not elsewhere and "manifest" not in pipeline.all_outputs():
            self._tag_data(state, used)

    def _tag_data(self, state: RunState, used: Iterable[str]) -> None:
        """Tag the run with the hash of the manifest, and log the splits that it names as MLflow's inputs."""
        import mlflow
        from mlflow.entities import Dataset, DatasetInput, InputTag

        path = local_path(self._catalog, "manifest")
        if path is None or not path.is_file():
            return
        content = path.read_bytes()
        mlflow.set_tag("data_manifest_sha256", hashlib.sha256(content).hexdigest())
        manifest = json.loads(content)
        folder = state.redactor.path(str(path.parent))
        inputs = []
        for split in sorted(used):
            if digest := manifest.get("outputs", {}).get(f"{split}.json"):
                made = Dataset(
                    name=f"{state.experiment}/{split}",
                    digest=digest[:_DIGEST],
                    source_type="local",
                    source=json.dumps({"uri": f"{folder}/{split}.json"}),
                    profile=json.dumps(manifest.get("counts", {}).get(split)),
                )
                inputs.append(DatasetInput(made, [InputTag("mlflow.data.context", _DATA[split])]))
        if inputs:
            mlflow.MlflowClient().log_inputs(state.run_id, inputs)


def _log_parameters(run_id: str, parameters: Mapping[str, str]) -> None:
    """Log all parameters at once; kedro-mlflow writes them one by one."""
    import mlflow
    from mlflow.entities import Param, RunTag

    long = {name for name, value in parameters.items() if len(value) > _LONGEST_PARAMETER}
    mlflow.MlflowClient().log_batch(
        run_id,
        params=[Param(name, value) for name, value in parameters.items() if name not in long],
        tags=[RunTag(name, parameters[name]) for name in sorted(long)],
    )


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(inner)


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


def _command(run_params: Mapping[str, Any], redactor: Redactor) -> str:
    words = ["kedro", "run"]
    if run_params.get("env"):
        words += ["--env", run_params["env"]]
    for option in ("pipeline_names", "tags", "from_nodes", "to_nodes", "node_names", "from_inputs", "to_outputs"):
        if run_params.get(option):
            name = {"pipeline_names": "pipelines", "node_names": "nodes"}.get(option, option.replace("_", "-"))
            words += [f"--{name}", ",".join(sorted(run_params[option]))]
    if run_params.get("runtime_params"):
        words += ["--params", _written(run_params["runtime_params"], redactor)]
    return shlex.join(words)


def _written(parameters: Mapping[str, Any], redactor: Redactor, prefix: str = "") -> str:
    written = []
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            written.append(_written(value, redactor, f"{prefix}{name}."))
        else:
            written.append(f"{prefix}{name}={redactor.path(value) if isinstance(value, str) else value}")
    return ",".join(written)


def _simple(value: Any) -> Any:
    """Return a nested value of plain types, as YAML writes them."""
    if isinstance(value, Mapping):
        return {str(key): _simple(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_simple(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
