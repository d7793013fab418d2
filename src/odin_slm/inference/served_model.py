"""Which model is served: found, fetched, identified by its digest, and described."""

from __future__ import annotations

import atexit
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from odin_slm.core import json_text
from odin_slm.core.errors import ServingError
from odin_slm.core.names import HUB_ID
from odin_slm.models.base_model import BaseModel, model_digest, resolve_base_model, weights_sha256
from odin_slm.tasks import Task, load
from odin_slm.tasks.operating_point import point_of

SETTINGS, CALIBRATOR = "extraction.json", "calibrator.json"
"""Files beside a registered adapter: how it is asked; what its probabilities are worth, and its operating point."""
TASK = "task.json"
"""File in an adapter's folder: the task that it was trained for, and what its records asked, by source."""

_ADAPTER = "adapter_config.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model that can be loaded.

    Attributes:
        source: What the settings named.
        base: The base model.
        adapter: Folder of the adapter, or None for a base alone.
        digest: ``sha256:…`` of base and adapter.
        created: When the weights were made, seconds since 1970.
        metrics: Measured scores, by the names that tracking uses; empty where none came with the model.
        calibrator: What turns probabilities into chances to be right, and the operating point at which the model is
            read; None where none came with it.
        task: What it was taught; the shipped extraction task where the model does not say.
        instructions: Source -> instruction that it was trained with; empty where that is not known.
        schema: The source of texts for which none is named; empty where the model does not say.
        card: Where the model comes from: registry name and version, run, adapter settings, test set.
    """

    source: str
    base: BaseModel
    adapter: Path | None
    digest: str
    created: float
    task: Task
    metrics: dict[str, float] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    calibrator: dict[str, Any] | None = None
    instructions: dict[str, str] = field(default_factory=dict)
    schema: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """What a request may ask for: the task's sources, and what else the model was trained with."""
        return tuple(dict.fromkeys((*self.task.sources, *self.instructions)))

    @property
    def default_source(self) -> str:
        """What is asked for where nothing is named."""
        return self.schema or self.task.default_source

    def describe_source(self, source: str) -> dict[str, list[str]]:
        """Return what a request for a source looks for, as far as the task knows."""
        return self.task.describe_source(source) if source in self.task.sources else {}


def resolve_model(source: str, *, root: Path, base_model: str | None = None, digest: str | None = None) -> ServedModel:
    """Find the model that a setting names, and check that it is the one that is meant.

    Args:
        source: An adapter's, release's or base's folder; ``owner/name`` on the Hub, with ``@revision`` if need be;
            ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/ID/PATH`` in MLflow.
        root: The project's folder; relative paths start there.
        base_model: Base of the adapter where its configuration does not name one that can be found.
        digest: What the digest must be, or None.

    Raises:
        ServingError: There is no such model, it holds no adapter, its digest is another, or a file beside it is broken.
        AdapterError: The adapter's configuration is broken, or its operating point is of a later version.
        BaseModelError: The base is missing or broken.
    """
    from odin_slm.inference.generation import check_config

    folder, card, metrics = _fetched(source, root)
    packaged, taught = _packaged(folder), _taught(folder)
    task = task_of(folder)
    if (folder / _ADAPTER).is_file():
        adapter: Path | None = folder
        check_config(folder)
        configuration = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
        pinned = packaged.get("base", {}).get("revision")
        base = _base_of(folder, configuration, root, base_model, pinned)
        card["adapter"] = {
            name: configuration.get(name) for name in ("r", "lora_alpha", "target_modules", "use_dora", "use_rslora")
        }
    else:
        adapter, base = None, resolve_base_model(str(folder), root=root)
    found = model_digest(base, adapter)
    if digest is not None and digest != found:
        raise ServingError(
            f"the model's digest is {found}, expected {digest}.",
            where=f"model {source}",
            fix="Serve the model that was meant, or take the new digest into the settings.",
        )
    card["base"] = {"source": base.name, "revision": base.revision}
    weights = [file for place in (adapter, base.path) if place for file in place.glob("*.safetensors")]
    created = weights[0].stat().st_mtime if weights else 0.0
    calibrator = calibrator_of(folder)
    point_of(calibrator)  # one that cannot be read is refused here, and not at every request
    return ServedModel(
        source=source,
        base=base,
        adapter=adapter,
        digest=found,
        created=card.pop("created", created),
        task=task.with_calibrator(calibrator),
        metrics=_measures(task, metrics) or _metrics_beside(folder, task, card),
        card=card,
        calibrator=calibrator,
        instructions=packaged.get("instructions") or taught.get("instructions") or _instructions_beside(folder, task),
        schema=packaged.get("schema", ""),
    )


def _fetched(source: str, root: Path) -> tuple[Path, dict[str, Any], dict[str, float]]:
    """Return a model's folder on this machine, where it comes from, and its metrics; what is known of either."""
    local = root / Path(source).expanduser()
    if source.startswith(("models:/", "runs:/")):
        return _from_tracking(source, root)
    if local.is_dir():
        return local, {}, {}
    if HUB_ID.fullmatch(source.partition("@")[0]) and not source.startswith(("data/", "./")):
        return _from_hub(source), {}, {}
    raise ServingError(
        "there is no such folder, and it is no Hub id (owner/name), models:/ or runs:/ address.",
        where=f"model {source}",
        fix="Train one (make run) and name data/06_models/demo/adapter, or name another.",
    )


def _packaged(folder: Path) -> dict[str, Any]:
    """Read how a registered model is asked; empty where the folder is none."""
    file = folder / SETTINGS
    if not file.is_file():
        return {}
    try:
        settings: dict[str, Any] = json_text.loads(file.read_text(encoding="utf-8"))
        if isinstance(settings["base"], dict) and settings["instructions"][settings["schema"]]:
            return settings
        reason = "no base"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = repr(error)
    raise ServingError(f"not a packaged model ({reason}).", where=str(file), fix="Register the model again.")


def _base_of(
    folder: Path, configuration: dict[str, Any], root: Path, given: str | None, pinned: str | None
) -> BaseModel:
    if given:
        return resolve_base_model(given, root=root)
    if (folder / "base" / "config.json").is_file():  # a release that carries its base
        return resolve_base_model(str(folder / "base"), root=root)
    named = configuration.get("base_model_name_or_path") or ""
    if not named:
        raise ServingError(
            "the adapter does not name its base.",
            where=str(folder / _ADAPTER),
            fix="Name it: --base-model of the service, --params base_model=… of a run.",
        )
    return resolve_base_model(named, root=root, revision=pinned or configuration.get("revision"))


def _from_hub(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = source.partition("@")
    try:
        patterns = ["*.json", "*.safetensors", "tokenizer*", "base/*", "README.md"]
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ServingError(
            f"the model cannot be fetched from the Hub ({reason}).",
            where=f"model {source}",
            fix="Check the id, the network and HF_TOKEN, or name a local folder.",
        ) from None


def _from_tracking(source: str, root: Path) -> tuple[Path, dict[str, Any], dict[str, float]]:
    """Fetch a registered model's, or a run's, adapter; return its folder, where it comes from, and its metrics."""
    import mlflow
    from mlflow.exceptions import MlflowException

    # The project's own store, unless MLFLOW_TRACKING_URI names a server.
    if not mlflow.environment_variables.MLFLOW_TRACKING_URI.is_set():
        mlflow.set_tracking_uri(f"sqlite:///{(root / 'mlflow.db').as_posix()}")
    fix = (
        "Register a model first, or name an adapter's folder, as data/06_models/demo/adapter; "
        "MLFLOW_TRACKING_URI names the server of another store."
    )
    card: dict[str, Any] = {}
    try:
        client = mlflow.MlflowClient()  # with mlflow-skinny alone, as in the container, it refuses a local store
        address = source
        if source.startswith("models:/"):
            name, version = _version(client, source)
            card["registry"] = {"name": name, "version": version.version, "source": source}
            card["created"] = version.creation_timestamp / 1000
            address, run = f"models:/{name}/{version.version}", version.run_id
        else:
            run = source.removeprefix("runs:/").split("/")[0]
        metrics = {}
        if run:
            data = client.get_run(run)
            card["run"] = run
            card.setdefault("created", (data.info.end_time or data.info.start_time) / 1000)
            metrics = data.data.metrics
        target = tempfile.mkdtemp(prefix="odin-slm-model-")
        atexit.register(shutil.rmtree, target, ignore_errors=True)
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=target))
    except (MlflowException, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ServingError(f"MLflow has no such model ({reason}).", where=f"model {source}", fix=fix) from None
    whole = (file for file in sorted(folder.rglob("config.json")) if file.parent.name != "base")
    found = sorted(folder.rglob(_ADAPTER)) or list(whole)
    if len(found) != 1:
        raise ServingError(
            f"expected one adapter ({_ADAPTER}) or whole model in the model's artifacts, found {len(found)}.",
            where=f"model {source}",
            fix=fix,
        )
    return found[0].parent, card, metrics


def _version(client: Any, source: str) -> tuple[str, Any]:
    rest = source.removeprefix("models:/")
    name, at, alias = rest.partition("@")
    if at:
        return name, client.get_model_version_by_alias(name, alias)
    name, _, version = rest.rpartition("/")
    return name, client.get_model_version(name, version)


def calibrator_of(folder: Path) -> dict[str, Any] | None:
    """Read the calibrator that travels with a model, or that the experiment of this adapter has made."""
    return _read(folder / CALIBRATOR) or _measured(folder, _beside(folder, "07_model_output", CALIBRATOR)) or None


def _taught(folder: Path) -> dict[str, Any]:
    """Return what an adapter's folder says of its task; empty where it was trained before it said so."""
    file = folder / TASK
    values = _read(file)
    if values and not (isinstance(values.get("name"), str) and isinstance(values.get("options"), dict)):
        raise ServingError("it names no task.", where=str(file), fix="Train again, or restore the file.")
    return values


def task_of(folder: Path) -> Task:
    """Return the task that a model's folder names; the shipped extraction task where it was made before it said so.

    Raises:
        ServingError: The task is not installed, or the file is broken.
    """
    values = _taught(folder) or _packaged(folder)
    described = values.get("task", values) if "name" in values or "task" in values else {"name": "extraction"}
    try:
        return load(described)
    except ValueError as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}." if first else str(error)
        raise ServingError(
            reason, where=str(folder / TASK), fix="Install the package that offers the task, or mend the file."
        ) from None


def _instructions_beside(folder: Path, task: Task) -> dict[str, str]:
    """Return what the experiment of this adapter has asked with, by the manifest of its data."""
    manifest = _read(_beside(folder, "05_model_input", "manifest.json"))
    return instructions(task, manifest) if manifest else {}


def instructions(task: Task, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return source -> instruction of the records that a manifest describes."""
    sources = sorted({source for counts in manifest["counts"].values() for source in counts["by_source"]})
    if manifest["parameters"]["ingestion"]["instruction"] == "shared":
        return dict.fromkeys(sources, task.shared_instruction)
    return {source: task.instruction(source) for source in sources}


def _beside(folder: Path, layer: str, name: str) -> Path:
    """Return a file of the experiment whose adapter this is, if it is one of this project's folders."""
    data = folder.parents[2] if len(folder.parents) > 2 else folder
    return data / layer / folder.parent.name / name


def _measured(folder: Path, file: Path) -> dict[str, Any]:
    """Read what an evaluation has measured of the adapter in a folder; nothing where it was trained again since."""
    values = _read(file)
    if "adapter_sha256" in values and weights_sha256(folder) not in (None, values["adapter_sha256"]):
        _log.warning("%s is of another adapter than %s and is left out; evaluate this one.", file, folder)
        return {}
    return values


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        values = json_text.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ServingError(f"not JSON ({error}).", where=str(file), fix="Make it again, or delete it.") from None
    return values if isinstance(values, dict) else {}


def _measures(task: Task, metrics: Mapping[str, float]) -> dict[str, float]:
    return {metric.name: metrics[metric.name] for metric in task.measures if metric.name in metrics}


def _metrics_beside(folder: Path, task: Task, card: dict[str, Any]) -> dict[str, float]:
    """Read the scores that were measured with this adapter: in a release folder, or in the experiment's reports."""
    name = "evaluation_results.json"
    for results in (_read(folder / name), _measured(folder, _beside(folder, "08_reporting", name))):
        try:
            metrics = {metric.name: metric.value(results) for metric in task.measures}
        except (KeyError, TypeError):
            continue  # no such file, or somebody else's of this name
        card["test_set"] = {
            name: results.get("test_set", {}).get(name) for name in ("examples", "documents", "sources", "sha256")
        }
        return metrics
    return {}
