"""The command line: ``kedro run`` and the project's own commands."""

from odin_slm.cli.commands import cli

__all__ = ["cli"]
