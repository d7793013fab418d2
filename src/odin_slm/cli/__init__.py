"""The command line: ``kedro run`` and the project's own commands."""

import click

from odin_slm.cli.base import base
from odin_slm.cli.champion import champion
from odin_slm.cli.corpus import corpus
from odin_slm.cli.hub import hub
from odin_slm.cli.run import run

cli = click.Group("odin_slm", commands=[run, champion, hub, base, corpus], help="Commands of this project.")

__all__ = ["cli"]
