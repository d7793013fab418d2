"""Experiments from before this project: folders of configuration, losses and scores, read as what runs are made of.

A folder holds a configuration (``*.yaml``), the Trainer's ``trainer_state.json`` (in it or in a ``checkpoint-N``), any
number of ``evaluation_results*.json``, and may hold an adapter. Every file that is there must be readable; nothing is
guessed, and a folder with a broken file is left out as a whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from odin_slm.core import json_text
from odin_slm.core.errors import ExperimentFolderError
from odin_slm.core.hashing import canonical_json, sha256_text
from odin_slm.core.redaction import hide_secrets, without_secret_keys

_DATE_KEYS = ("timestamp", "date", "created_at", "created", "evaluated_at", "start_time")
_DATE_IN_NAME = re.compile(r"(20\d\d)-?([01]\d)-?([0-3]\d)(?:[-_T]?([0-2]\d)[-:]?([0-5]\d)(?:[-:]?([0-5]\d))?)?(?!\d)")
_KINDS = ("entity", "relation")
"""Kinds of scores in the results files of these experiments."""
_PATH = re.compile(r"(?<![\w.:/<…])/(?:[\w.@-]+/)+([\w.@-]+)")
_EARLIEST, _LATEST = 1_000_000_000, 10_000_000_000
"""Numbers between them are taken for seconds since 1970 (2001 to 2286): 20240503 is a day that somebody wrote."""
_CURVES = {"loss": "train_loss", "grad_norm": "gradient_norm"}


@dataclass(frozen=True)
class ExperimentFolder:
    """A folder as it lies on the disk.

    Attributes:
        name: Its name.
        texts: File name -> text, of the files named above; ``trainer_state.json`` is the newest one.
        modified: File name -> time of its last change, in milliseconds since 1970.
        adapter: Folder of the adapter, the finished one before that of the last checkpoint.
        adapter_sha256: Hash of its weights.
        problem: Why it could not be read; empty where it could.
    """

    name: str
    texts: Mapping[str, str]
    modified: Mapping[str, int]
    adapter: Path | None = None
    adapter_sha256: str = ""
    problem: str = ""


@dataclass(frozen=True)
class PastRun:
    """A run to be tracked, with its own dates.

    Attributes:
        folder: Name of the experiment's folder.
        stage: ``training`` or ``evaluation``.
        name: Name of the run.
        sha256: Digest of its content; equal content is one run.
        started: Begin, in milliseconds since 1970.
        ended: End.
        params: Flattened configuration.
        metrics: (name, value, step) in order.
        artifacts: Path in the run -> text.
        source: File that it was read from.
        adapter: Folder of the adapter, of a training.
        instruction: What the adapter was asked with, where the configuration says so.
    """

    folder: str
    stage: str
    name: str
    sha256: str
    started: int
    ended: int
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[tuple[str, float, int], ...] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    adapter: Path | None = None
    instruction: str | None = None


def read_folder(folder: ExperimentFolder) -> list[PastRun]:
    """Return the training run of a folder, then its evaluations in the order of their file names.

    Raises:
        ExperimentFolderError: A file is broken, or there is nothing to track.
    """
    if folder.problem:
        raise ExperimentFolderError(folder.problem, where=folder.name)
    configs = [name for name in sorted(folder.texts) if name.endswith((".yaml", ".yml"))]
    evaluations = [name for name in sorted(folder.texts) if name.startswith("evaluation_results")]
    if len(configs) > 1:
        raise ExperimentFolderError(f"more than one configuration ({', '.join(configs)}).", where=folder.name)
    if not configs and "trainer_state.json" not in folder.texts:
        raise ExperimentFolderError("neither a configuration nor trainer_state.json.", where=folder.name)
    config = _yaml(folder, configs[0]) if configs else {}
    state = _json(folder, "trainer_state.json") if "trainer_state.json" in folder.texts else {}
    try:
        training = _training(folder, config, state, [*configs, *(["trainer_state.json"] if state else [])])
        return [training, *(_evaluation(folder, name, training) for name in evaluations)]
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ExperimentFolderError(
            f"a value of a kind that does not belong there ({error}).", where=folder.name
        ) from None


def _training(folder: ExperimentFolder, config: dict[str, Any], state: dict[str, Any], files: list[str]) -> PastRun:
    history = state.get("log_history", [])
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise ExperimentFolderError("log_history is no list of entries.", where=f"{folder.name}/trainer_state.json")
    seconds = max((float(entry.get("train_runtime", 0.0)) for entry in history), default=0.0)
    changed = max(folder.modified[name] for name in files)
    stated = _date(config) or _date_in(folder.name)
    started = stated or changed - round(seconds * 1000)
    curve = tuple(
        (_CURVES.get(name, name), float(value), int(entry.get("step", 0)))
        for entry in history
        for name, value in entry.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    )
    instruction = config.get("instruction")
    content = {name: sha256_text(folder.texts[name]) for name in files}
    return PastRun(
        folder=folder.name,
        stage="training",
        name=f"{folder.name} training",
        sha256=sha256_text(canonical_json(["training", sorted(content.values()), folder.adapter_sha256])),
        started=started,
        ended=started + round(seconds * 1000) if stated else changed,
        params={key: _public(str(value)) for key, value in _flat(without_secret_keys(config))},
        metrics=curve,
        artifacts=dict(_training_file(folder, name, config, state) for name in files),
        source=files[0],
        adapter=folder.adapter,
        instruction=instruction if isinstance(instruction, str) else None,
    )


def _training_file(
    folder: ExperimentFolder, name: str, config: dict[str, Any], state: dict[str, Any]
) -> tuple[str, str]:
    """Return where a file goes in the run, and what is shown of it."""
    if name == "trainer_state.json":
        return f"training/{name}", _shown(folder.texts[name], state, canonical_json)
    return f"configuration/{name}", _shown(folder.texts[name], config, _yaml_text)


def _evaluation(folder: ExperimentFolder, file: str, training: PastRun) -> PastRun:
    results = _json(folder, file)
    metrics = tuple((name, value, 0) for name, value in _scores(results, f"{folder.name}/{file}"))
    # a file's time is that of its last copy; no model was scored before it was trained
    moment = _date(results) or max(folder.modified[file], training.ended)
    label = file.removeprefix("evaluation_results").removesuffix(".json").strip("_-") or "test"
    return PastRun(
        folder=folder.name,
        stage="evaluation",
        name=f"{folder.name} evaluation {label}",
        sha256=sha256_text(canonical_json(["evaluation", training.sha256, sha256_text(folder.texts[file])])),
        started=moment,
        ended=moment,
        metrics=metrics,
        artifacts={f"evaluation/{file}": _shown(folder.texts[file], results, canonical_json)},
        source=file,
    )


def _scores(results: Mapping[str, Any], where: str) -> Iterator[tuple[str, float]]:
    for kind in _KINDS:
        scores = results.get(f"{kind}_metrics")
        if not isinstance(scores, Mapping) or not isinstance(scores.get("micro"), Mapping):
            raise ExperimentFolderError(f"no {kind}_metrics with micro scores.", where=where)
        for average in ("micro", "macro"):
            for measure, value in (scores.get(average) or {}).items():
                if isinstance(value, int | float) and math.isfinite(value):
                    yield f"{kind}_{measure}_{average}", float(value)
    for name, ends in (results.get("intervals") or {}).items():
        yield from zip((f"{name}_low", f"{name}_high"), map(float, ends), strict=True)


def _yaml(folder: ExperimentFolder, name: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(folder.texts[name])
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ExperimentFolderError(f"not YAML ({reason}).", where=f"{folder.name}/{name}") from None
    return _mapping(value, f"{folder.name}/{name}")


def _yaml_text(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _json(folder: ExperimentFolder, name: str) -> dict[str, Any]:
    try:
        value = json_text.loads(folder.texts[name])
    except ValueError as error:
        raise ExperimentFolderError(f"not JSON ({error}).", where=f"{folder.name}/{name}") from None
    return _mapping(value, f"{folder.name}/{name}")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ExperimentFolderError("expected keys with values.", where=where)
    return value


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _public(text: str) -> str:
    """Return a text without the absolute paths and tokens of the machine where it was written."""
    return hide_secrets(_PATH.sub(r"…/\1", text))


def _shown(text: str, value: Any, dump: Callable[[Any], str]) -> str:
    """Return a file as it may be tracked: as it is written, or anew from its values where it holds a secret."""
    masked = without_secret_keys(value)
    return _public(text if masked == value else dump(masked))


def _date(values: Mapping[str, Any]) -> int | None:
    """Return the first date that a file states, in milliseconds since 1970; without a zone it is UTC."""
    for key in _DATE_KEYS:
        value = values.get(key)
        try:
            if isinstance(value, int | float) and value >= _EARLIEST:
                value = value / 1000 if value >= _EARLIEST * 1000 else value  # milliseconds, as JavaScript counts
                if value < _LATEST:
                    return round(value * 1000)
                continue
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            continue
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return None


def _date_in(name: str) -> int | None:
    match = _DATE_IN_NAME.search(name)
    if not match:
        return None
    try:
        moment = datetime(*(int(part or 0) for part in match.groups()), tzinfo=UTC)  # type: ignore[arg-type, misc]
    except ValueError:
        return None
    return round(moment.timestamp() * 1000)
