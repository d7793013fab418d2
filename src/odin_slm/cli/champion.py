"""``kedro champion``: which registered model is in use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import click

from odin_slm.cli.errors import explained


@click.group()
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
            reason = f": {event['reason']}" if event["reason"] else ""
            click.echo(f"{event['at']}  {event['action']:<8}  {who}  by {event['by']}{forced}{reason}")
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
    from odin_slm.pipelines.evaluation.nodes import paired_test

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

    with explained(), KedroSession.create(env=env) as session:
        context = cast("KedroSession", session).load_context()  # its hook sets the tracking store
        params = EvaluationParams.model_validate(context.params["evaluation"])
        task = TaskParams.model_validate(context.params["task"]).task()
        yield Registry(context.config_loader["globals"]["registered_model"]), params, task
