"""Values of ``--params``: what they mean to the parameter that takes them.

Kedro reads each of them as YAML 1.1, where ``202611``, ``1.10``, ``0117`` and ``no`` are numbers and a truth value. A
folder, a tag or a name is text however it looks, so here the parameter decides: a value that it does not take is read
as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, TypeAdapter, ValidationError

from odin_slm.core.errors import OdinError, WrongParameterError

_ENTRY = re.compile(r"\$\{runtime_params:\s*(?P<name>\w+)\s*(?:,\s*(?P<default>(?:\$\{[^{}]*\}|[^{}])*))?\}")
_GLOBAL = re.compile(r"\$\{globals:\s*(\w+)\s*\}")
_NEXT = re.compile(r",\s*(?=[\w.\[\]-]+\s*=|$)")
_ODD_NUMBER = re.compile(r"[-+]?0[\d_]+|[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?")
"""A number in octal or sexagesimal figures, as YAML 1.1 reads it and nobody means it."""
_NO_YAML = object()


@dataclass(frozen=True)
class CatalogParameter:
    """A parameter that the catalog reads.

    Attributes:
        is_text: Whether it takes text: its default is no number and no truth value.
        optional: Whether its default is null.
    """

    is_text: bool
    optional: bool


def split_items(text: str) -> list[tuple[str, str]]:
    """Cut ``KEY=VALUE,KEY=VALUE`` into its pairs; a comma parts them where a key follows.

    Raises:
        ValueError: A pair has no ``=``, or no key.
    """
    pairs = []
    for item in filter(None, (item.strip() for item in _NEXT.split(text))):
        key, sign, value = item.partition("=")
        if not sign or not key.strip():
            raise ValueError(f"expected KEY=VALUE, found {item!r}")
        pairs.append((key.strip(), value.strip()))
    return pairs


def catalog_parameters(texts: Iterable[str], known_globals: Mapping[str, Any]) -> dict[str, CatalogParameter]:
    """Return what the catalog takes from ``--params``, by name.

    Args:
        texts: Configuration files.
        known_globals: Values of ``globals.yml``, among which the defaults are.
    """
    found = {}
    for match in (match for text in texts for match in _ENTRY.finditer(text)):
        default = (match["default"] or "null").strip()
        named = _GLOBAL.fullmatch(default)
        value = known_globals.get(named[1]) if named else _yaml(default)
        found[match["name"]] = CatalogParameter(not isinstance(value, bool | int | float), value is None)
    return found


def as_meant(
    items: Iterable[tuple[str, str]], types: Mapping[str, Any], catalog: Mapping[str, CatalogParameter]
) -> dict[str, Any]:
    """Read the values of ``--params``.

    Args:
        items: Dotted keys with their values as written.
        types: First part of a key -> type of that group of parameters.
        catalog: What the catalog takes; empty where that is not known.

    Returns:
        Nested values, as Kedro takes them.

    Raises:
        WrongParameterError: A value is empty where text is needed, or no YAML where no text is taken.
    """
    values = OmegaConf.create()
    for key, written in items:
        group, *path = key.split(".")
        if group in types:
            value = _for_type(written, next(_adapters(types[group], path), None))
        elif (entry := catalog.get(key)) and entry.is_text:
            value = None if entry.optional and written in ("", "~", "null") else _plain(written)
            if value == "":
                raise WrongParameterError("it is empty.", where=f"--params {key}", fix="Name it, or leave it out.")
        else:
            value = _yaml(written)
            if not catalog and not path and not isinstance(value, bool | None):
                value = _plain(written)  # a configuration in an archive is not looked into, and most of these are text
        if value is _NO_YAML:
            fix = "Put a text into quotes, within those of the shell."
            raise WrongParameterError(f"{written!r} cannot be read as YAML.", where=f"--params {key}", fix=fix)
        OmegaConf.update(values, key, value, force_add=True)
    return dict(OmegaConf.to_container(values))  # type: ignore[arg-type]


def _for_type(written: str, adapter: TypeAdapter[Any] | None) -> Any:
    """Return a value as YAML reads it where its type takes that, else as text, or with text for all its parts."""
    typed, text = _yaml(written), _plain(written)
    if adapter is None:
        return typed
    readings = [text] if _ODD_NUMBER.fullmatch(written) else [typed, text]
    if typed is _NO_YAML or isinstance(typed, str):
        readings = [text]
    elif isinstance(typed, list | dict):
        readings = [typed, yaml.load(written, yaml.BaseLoader), text]
    for value in readings:
        if not _kinds_of_fault(adapter, value):
            return value
    return text if "string_type" in _kinds_of_fault(adapter, typed) else readings[0]


def _kinds_of_fault(adapter: TypeAdapter[Any], value: Any) -> set[str]:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        return {fault["type"] for fault in error.errors(include_url=False)}
    except OdinError:
        return {"refused"}
    return set()


def _adapters(annotation: Any, path: list[str], metadata: tuple[Any, ...] = ()) -> Iterator[TypeAdapter[Any]]:
    """Yield what checks the value under a path of keys; nothing where there is no such key."""
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = (*metadata, *more)
    origin = get_origin(annotation)
    if not path:
        yield TypeAdapter(Annotated[annotation, *metadata] if metadata else annotation)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if path[0] in (name, field.alias):
                yield from _adapters(field.annotation, path[1:], tuple(field.metadata))
    elif origin is dict:
        yield from _adapters(get_args(annotation)[1], path[1:])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            if part is not NoneType:
                yield from _adapters(part, path)


def _yaml(written: str) -> Any:
    """Return a value as Kedro reads it."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={written}"]))["value"]  # type: ignore[index, call-overload]
    except (yaml.YAMLError, OmegaConfBaseException):
        return _NO_YAML


def _plain(written: str) -> str:
    """Return a text as it is written, or what is within its quotes."""
    value = _yaml(written) if written[:1] in ("'", '"') else written
    return value if isinstance(value, str) else written


def files_of(layers: Iterable[Path]) -> Iterator[Path]:
    """Yield the configuration files of some environments."""
    for layer in layers:
        yield from (file for file in sorted(layer.rglob("*")) if file.suffix in (".yml", ".yaml"))


def globals_of(layers: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each ``globals*.yml`` of some environments with its values, as Kedro reads them."""
    for file in files_of(layers):
        if file.name.startswith("globals"):
            values = OmegaConf.to_container(OmegaConf.load(file))
            yield file, {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}
