"""Failures at the command line: what a user can act on is one message instead of a traceback."""

from __future__ import annotations

import errno
import logging
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from kedro.validation import ParameterValidationError
from rich.console import Console
from rich.logging import RichHandler

from odin_slm.core.errors import OdinError

_LOGGER = logging.getLogger(__name__)
_DISK = {
    errno.ENOSPC: "Make room on the disk and run the command again: it writes every file of the run anew.",
    errno.EDQUOT: "Make room within the quota and run the command again: it writes every file of the run anew.",
    errno.EROFS: "Write to another place: data in conf/<env>/globals.yml names the folder.",
    errno.EACCES: "Give the user of this process the right to read and write there.",
}
_INTERRUPTED = 130


class ExplainedGroup(click.Group):
    """Commands whose failures are one message."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; its failures are one message, and standard output is for tables and JSON alone."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, RichHandler):
                handler.console = Console(stderr=True)
        with explained():
            return super().invoke(ctx)


def explain(error: BaseException) -> OdinError | None:
    """Find what a user can do about a failure.

    Args:
        error: What reached the command line; datasets' and nodes' own errors are found behind Kedro's.

    Returns:
        The explanation, or None where the failure is a defect of the program and its traceback the best account.
    """
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, OdinError):
            return cause
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in _DISK:
            what = f"{cause.strerror}."
            return OdinError(what, where=_file(cause), fix=_DISK[cause.errno])
        if isinstance(cause, FileNotFoundError):
            fix = "Run the pipeline that makes it, as `kedro run --pipelines data`, or mend the path."
            return OdinError("there is no such file or folder.", where=_file(cause), fix=fix)
        if "database or disk is full" in str(cause):
            return OdinError("the tracking store cannot grow: the disk is full.", fix=_DISK[errno.ENOSPC])
    if isinstance(error, ParameterValidationError):
        fix = "Mend the value on the command line (--params) or in conf/<env>/parameters_*.yml."
        return OdinError("; ".join(_invalid(str(error))) or str(error), where="parameters", fix=fix)
    if _raised_in(error).startswith(("kedro.framework", "kedro.pipeline", "kedro.config", "omegaconf", "yaml")):
        return OdinError(str(error), fix="See `kedro run --help` and `kedro registry list`.")
    return None


@contextmanager
def explained() -> Iterator[None]:
    """Turn failures into a message and an exit code, and leave no MLflow run open."""
    node_logger = logging.getLogger("kedro.pipeline.node")
    node_logger.addFilter(_explained_below)
    # A terminated run is closed in the tracking store as an interrupted one is.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        _end_run("KILLED")
        click.secho("Interrupted.", fg="red", err=True)
        sys.exit(_INTERRUPTED)
    except click.ClickException:
        raise
    except Exception as error:
        _end_run("FAILED")
        explanation = explain(error)
        if explanation is None:
            raise
        _LOGGER.debug("The failure in full:", exc_info=error)
        _print(explanation)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, previous)
        node_logger.removeFilter(_explained_below)


def _print(error: OdinError) -> None:
    click.secho("ERROR  ", fg="red", bold=True, nl=False, err=True)
    click.echo(f"{error.where}: {error.what}" if error.where else error.what, err=True)
    if error.fix:
        click.secho("  fix  ", fg="green", bold=True, nl=False, err=True)
        click.echo(error.fix, err=True)


def _end_run(status: str) -> None:
    if "mlflow" in sys.modules:
        from odin_slm.hooks.errors import end_active_run

        end_active_run(status)


def _explained_below(record: logging.LogRecord) -> bool:
    """Drop Kedro's error line of a failed node, which holds the text that is printed as the explanation."""
    return record.levelno < logging.ERROR


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _file(error: OSError) -> str:
    return str(error.filename) if error.filename else ""


def _raised_in(error: BaseException) -> str:
    traceback, module = error.__traceback__, ""
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        traceback = traceback.tb_next
    return module


_PARAMETER = re.compile(r"- Parameter '(?P<name>[^']+)':.*")
_REASON = re.compile(r"  (?P<reason>\S.*) \[type=(?P<type>\w+), input_value=(?P<value>.*), input_type=\w+\]")


def _invalid(message: str) -> Iterator[str]:
    """Yield ``key: reason`` for each fault in Kedro's account of pydantic's errors, with the value of a single key."""
    parameter = key = ""
    for line in message.splitlines():
        if match := _PARAMETER.fullmatch(line):
            parameter = key = match["name"]
        elif match := _REASON.fullmatch(line):
            reason = match["reason"].removeprefix("Value error, ")
            if match["type"] == "value_error" and match["value"].startswith("{"):  # of a rule over several keys
                yield f"{key}: {reason}"
            else:
                yield f"{key}: {reason.removesuffix('.')}, found {match['value']}{_quotes(key, match['type'])}"
        elif not line.startswith(" "):
            key = f"{parameter}.{line}"


def _quotes(key: str, kind: str) -> str:
    """Return how a text is written that YAML takes for something else."""
    name = re.sub(r"(\.\d+)+$", "", key).rpartition(".")[2]
    return f' (write what is meant in quotes, as {name}: "1.10")' if kind in ("string_type", "path_type") else ""
