"""Configuration loading that refuses what nothing would read."""

from __future__ import annotations

import os
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from kedro.config import MissingConfigException, OmegaConfigLoader

from odin_slm.config.runtime_params import CatalogParameter, catalog_parameters, files_of, globals_of
from odin_slm.core.errors import (
    InvalidNameError,
    UnknownEnvironmentError,
    UnknownParameterError,
    WrongParameterError,
)
from odin_slm.core.names import name_fault
from odin_slm.core.redaction import secrets_in

_TEXTS = ("data", "corpora", "base_model", "text", "tracking_experiment")
"""Keys of ``globals.yml`` that are folders and names, beside those that :func:`_check_names` looks at."""


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader, after a look at what the user asked for.

    Kedro takes an ``--env`` without a folder, and a key of ``--params`` that nothing reads, as if they were right, and
    runs something else than was meant.

    Args:
        conf_source: The ``conf`` folder.
        env: Environment on top of ``base``; None for the default one.
        runtime_params: Values of ``--params``, nested.
        options: See :class:`kedro.config.OmegaConfigLoader`.

    Raises:
        UnknownEnvironmentError: There is no folder for ``env``.
        UnknownParameterError: A key of ``runtime_params`` is neither a parameter nor used in the configuration.
        WrongParameterError: A name or a folder is a number, or another value that is no text.
        InvalidNameError: ``env``, the experiment or the registered model has a name that is none.
    """

    def __init__(
        self,
        conf_source: str | Path,
        env: str | None = None,
        runtime_params: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        folder = Path(conf_source)
        if folder.is_dir():  # otherwise an archive or an address: Kedro's packaged mode
            if env:
                _check_environment(folder, env)
            layers = layers_of(folder, env, options)
            _check_globals(layers)
            _check_parameters(layers, runtime_params or {})
        super().__init__(conf_source=conf_source, env=env, runtime_params=runtime_params, **options)
        with suppress(MissingConfigException):  # a configuration without globals.yml
            _check_names(env, self["globals"])


def configuration(env: str | None) -> tuple[Path, Any]:
    """Return the folder of the project at hand, and the loader of its configuration; no session is opened for it."""
    from kedro.framework.project import settings
    from kedro.utils import find_kedro_project

    project = find_kedro_project(Path.cwd()) or Path.cwd()
    options = settings.CONFIG_LOADER_ARGS
    return project, settings.CONFIG_LOADER_CLASS(conf_source=str(project / "conf"), env=env, **options)


def environments(conf: Path) -> list[str]:
    """Return the names of the environment folders in ``conf``."""
    return sorted(folder.name for folder in conf.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def layers_of(conf: Path, env: str | None, options: dict[str, Any]) -> list[Path]:
    """Return the folders that a run reads: the base environment and the one on top of it."""
    return [conf / (options.get("base_env") or ""), conf / (env or options.get("default_run_env") or "")]


def catalog_parameters_of(layers: list[Path]) -> dict[str, CatalogParameter]:
    """Return what the catalog of some environments takes from ``--params``, by name."""
    known = {key: value for _, values in globals_of(layers) for key, value in values.items()}
    return catalog_parameters((file.read_text(encoding="utf-8") for file in files_of(layers)), known)


def _check_globals(layers: list[Path]) -> None:
    for file, values in globals_of(layers):
        for key in _TEXTS:
            _require_text(values.get(key), key, f"conf/{file.parent.name}/{file.name}, {key}")


def _require_text(value: Any, key: str, where: str) -> None:
    if not isinstance(value, str | os.PathLike | None):
        raise WrongParameterError(
            f"found the {type(value).__name__} {value!r}; expected text.",
            where=where,
            fix=f'Write what is meant in quotes, as {key}: "2026".',
        )


def _check_environment(conf: Path, env: str) -> None:
    known = environments(conf)
    if env not in known:
        raise UnknownEnvironmentError(
            f"there is no environment {env!r}.",
            where=f"--env {env}",
            fix=f"{_suggestion(env, known)}The folders in {conf.name}/ are: {', '.join(known)}.",
        )


def _check_names(env: str | None, known: dict[str, Any]) -> None:
    """Refuse names that would have to be escaped in paths, in commands, on cards and on the Hub."""
    where = f"conf/{env or 'base'}/globals.yml"
    named = {"experiment": where, "registered_model": where}
    found = [(env, f"--env {env}")] if env else []
    for value, place in (*found, *((known[key], f"{file}, {key}") for key, file in named.items() if key in known)):
        if fault := name_fault(value):
            fix = "Give it another name, for example ade-only.v2."
            raise InvalidNameError(f"{fault}.", where=place, fix=fix)


def _check_parameters(layers: list[Path], runtime_params: dict[str, Any]) -> None:
    if not runtime_params:
        return
    _refuse_secrets(runtime_params)
    taken = catalog_parameters_of(layers)
    known = set(taken)
    for file in files_of(layers):
        if file.name.startswith("parameters"):
            known.update(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    for key, value in runtime_params.items():
        if key not in known:
            raise UnknownParameterError(
                f"nothing reads the parameter {key!r}.",
                where=f"--params {key}=…",
                fix=f"{_suggestion(key, known)}The first parts of parameters are: {', '.join(sorted(known))}.",
            )
        if key in taken and taken[key].is_text:
            _require_text(value, key, f"--params {key}")


def _refuse_secrets(values: dict[str, Any], prefix: str = "") -> None:
    """Stop before parameters become tags of the tracking run."""
    for key, value in values.items():
        if isinstance(value, dict):
            _refuse_secrets(value, f"{prefix}{key}.")
        elif secret := next(secrets_in(f"{value}"), ""):
            raise UnknownParameterError(
                f"it holds what looks like {secret}, and parameters are logged.",
                where=f"--params {prefix}{key}",
                fix="Make a new one, as this one may be in your history; the Hub's is given by HF_TOKEN or "
                "`hf auth login`, and no other is read.",
            )


def _suggestion(word: str, known: list[str] | set[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]}? " if close else ""
