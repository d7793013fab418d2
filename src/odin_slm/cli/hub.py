"""``kedro hub``: choosing a base model. Tables for people, ``--json`` for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from odin_slm.cli.errors import ExplainedGroup
from odin_slm.models.sources import model_search

if TYPE_CHECKING:
    from odin_slm.hub.client import Hub
    from odin_slm.hub.metadata_cache import MetadataCache

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}

_as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
_revision = click.option("--revision", default="main", show_default=True, help="Branch, tag or commit.")


def _max_age(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--max-age",
        type=click.FloatRange(min=0),
        default=24.0,
        show_default=True,
        envvar="ODIN_SLM_HUB_MAX_AGE",
        help="Hours for which a cached answer is used; 0 asks again.",
    )(command)


@click.group(cls=ExplainedGroup)
def hub() -> None:
    """Look for a base model on the Hugging Face Hub."""


@hub.command()
@click.argument("words", default="")
@click.option("--task", help="A task of the Hub, as text-generation.")
@click.option("--author", help="Owner of the models.")
@click.option(
    "--sort", type=click.Choice(model_search.SORTS), default="downloads", show_default=True, help="Largest first."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, at most.")
@_as_json
def search(words: str, task: str | None, author: str | None, sort: str, limit: int, as_json: bool) -> None:
    """Search models whose name holds WORDS."""
    found = model_search.search(_hub(), words, task=task, author=author, sort=sort, limit=limit)
    if as_json:
        _write_json(found)
    elif not found:
        click.echo("Nothing found.")
    else:
        _table(
            ["model", "task", "licence", "downloads", "likes", "access"],
            [
                [m["id"], m["task"], m["license"], m["downloads"], m["likes"], "gated" if m["gated"] else "open"]
                for m in found
            ],
        )


@hub.command()
@click.argument("model")
@_revision
@_max_age
@_as_json
def info(model: str, revision: str, max_age: float, as_json: bool) -> None:
    """Show what is known of MODEL (owner/name)."""
    found = model_search.info(_hub(), _cache(max_age), model, revision)
    if as_json:
        _write_json(found)
        return
    shown = {key: value for key, value in found.items() if key not in ("files", "tags", "stale")}
    _table(["", found["id"]], [[key.replace("_", " "), _plain(value)] for key, value in shown.items()])
    _table(["file", "bytes"], [[name, size] for name, size in found["files"].items()])
    _warn_of_age(found)


@hub.command()
@click.argument("model")
@_revision
@_max_age
@_as_json
def check(model: str, revision: str, max_age: float, as_json: bool) -> None:
    """Say whether MODEL will do as a base here; exit code 1 where it will not."""
    found = model_search.info(_hub(), _cache(max_age), model, revision)
    memory, machine = model_search.memory_of_this_machine()
    checks = model_search.check(found, memory=memory)
    if as_json:
        _write_json({"id": found["id"], "stale": found["stale"], "checks": [asdict(check) for check in checks]})
    else:
        rows = [[c.name, f"[{_COLOURS[c.verdict]}]{c.verdict}[/]", c.found, c.fix] for c in checks]
        _table([f"{found['id']} on {machine}", "", "found", "what to do"], rows, markup=True)
        _warn_of_age(found)
    if any(c.verdict == "failure" for c in checks):
        sys.exit(1)


@hub.command()
@click.argument("model")
@_revision
@_as_json
def download(model: str, revision: str, as_json: bool) -> None:
    """Fetch MODEL's weights, tokenizer, configuration and licence into the Hub's cache."""
    folder = model_search.download(_hub(), model, revision)
    if as_json:
        _write_json({"id": model, "revision": folder.name, "folder": str(folder)})
    else:
        click.echo(folder)
    named = model if revision == "main" else folder  # an id alone would be read as its main branch
    click.echo(f"Use it: kedro run --params base_model={named}", err=True)


def _hub() -> Hub:
    from kedro.utils import find_kedro_project

    from odin_slm.hub.client import Hub
    from odin_slm.hub.credentials import find_token

    project = find_kedro_project(Path.cwd()) or Path()  # kedro's commands run in its subfolders as well
    return Hub(token=find_token(project / "conf/local/credentials.yml"))


def _cache(max_age: float) -> MetadataCache:
    from odin_slm.hub.metadata_cache import MetadataCache

    return MetadataCache(model_search.default_cache(), lifetime=max_age * 3600)


def _write_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _warn_of_age(found: dict[str, Any]) -> None:
    if found["stale"]:
        click.secho(f"The Hub cannot be reached: this is what it said at {found['fetched_at']}.", fg="yellow", err=True)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(headers: list[str], rows: list[list[Any]], *, markup: bool = False) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(*headers, box=box.SIMPLE)
    for row in rows:
        cells = [_plain(cell) if cell is not None else "" for cell in row]
        table.add_row(*(cell if markup and number == 1 else escape(cell) for number, cell in enumerate(cells)))
    Console().print(table)
