"""``kedro run`` with every option it has; its failures are explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run

from odin_slm.cli.errors import explained
from odin_slm.config.runtime_params import as_meant, split_items


def _run(**options: Any) -> dict[str, Any]:
    with explained():
        if isinstance(options["params"], list):  # those of a --config file are read already
            options["params"] = _read(options["params"], options.get("conf_source"), options.get("env"))
        return kedro_run.callback(**options)  # type: ignore[misc]


def _as_written(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Cut --params into keys and texts; what they mean depends on the environment, which may be named behind them."""
    try:
        return split_items(value) if isinstance(value, str) else value
    except ValueError as error:
        raise click.BadParameter(f"{error}.", context, option) from None


def _read(items: list[tuple[str, str]], conf_source: str | None, env: str | None) -> dict[str, Any]:
    """Read the values by the types of the pipelines' parameters, and by what the catalog takes."""
    if not items:
        return {}
    from kedro.framework.project import pipelines, settings
    from kedro.utils import find_kedro_project
    from kedro.validation.type_extractor import TypeExtractor

    from odin_slm.config.loader import catalog_parameters_of, layers_of

    project = find_kedro_project(Path.cwd()) or Path.cwd()
    conf = Path(conf_source or project / settings.CONF_SOURCE)
    layers = layers_of(conf, env, settings.CONFIG_LOADER_ARGS) if conf.is_dir() else []
    types = TypeExtractor(dict(pipelines)).extract_types_from_pipelines()
    return as_meant(items, types, catalog_parameters_of(layers))


def _option(option: click.Parameter) -> click.Parameter:
    if option.name != "params":
        return option
    return click.Option(option.opts, type=click.UNPROCESSED, default="", help=option.help, callback=_as_written)


run = click.Command(
    "run",
    params=[_option(option) for option in kedro_run.params],
    callback=_run,
    help="""Run pipelines; the default goes from the raw corpora to a staged release.

    --params takes corpora=DIR, adapter=DIR, test_data=FILE, and every parameter of conf/base/parameters_*.yml, as in
    training.epochs=1. A name, a folder or a tag is taken as it is written, also where it looks like a number.
    `kedro registry list` shows the names for --pipelines.""",
)
