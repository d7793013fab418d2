"""``kedro run`` with every option it has; its failures are explained."""

from __future__ import annotations

from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run

from odin_slm.cli.errors import explained


def _run(**options: Any) -> dict[str, Any]:
    with explained():
        return kedro_run.callback(**options)  # type: ignore[misc]


run = click.Command(
    "run",
    params=kedro_run.params,
    callback=_run,
    help="""Run pipelines; the default goes from the raw corpora to a staged release.

    --params takes corpora=DIR, adapter=DIR, test_data=FILE, and every parameter of conf/base/parameters_*.yml, as in
    training.epochs=1. `kedro registry list` shows the names for --pipelines.""",
)
