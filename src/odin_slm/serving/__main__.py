"""``python -m odin_slm.serving`` serves a model; ``python -m odin_slm.serving new-key NAME`` makes an API key."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from odin_slm.core.errors import OdinError, ServingError
from odin_slm.core.runtime_environment import prepare_process
from odin_slm.serving.settings import KEYS_VARIABLE, ApiKeys, ServingSettings, hash_key

ROOT = Path(os.environ.get("ODIN_SLM_HOME") or Path.cwd())
PREFIX = "ODIN_SLM"


def _option(name: str, field: FieldInfo) -> click.Option:
    annotation = str(field.annotation)
    kind: Any = int if "int" in annotation else float if "float" in annotation else str
    return click.Option(
        [f"--{name.replace('_', '-')}"],
        type=kind,
        default=field.default,
        envvar=f"{PREFIX}_{name.upper()}",
        show_default=field.default not in (None, ""),
        show_envvar=True,
        help=field.description,
    )


def _serve(**values: Any) -> None:
    context = click.get_current_context()
    if context.invoked_subcommand:
        return
    try:
        settings = ServingSettings(**values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        _fail(ServingError(faults, where="settings", fix="See python -m odin_slm.serving --help."))
    try:
        serve(settings, ApiKeys.of(os.environ))
    except OdinError as error:
        _fail(error)


def serve(settings: ServingSettings, keys: ApiKeys) -> None:
    """Load the model, then answer requests until SIGTERM or SIGINT; accepted requests are finished.

    Raises:
        OdinError: The model cannot be loaded, or the port cannot be opened.
    """
    prepare_process()
    from odin_slm.serving.observability import set_up_logs

    set_up_logs(settings.log_level)
    import uvicorn

    from odin_slm.inference.served_model import resolve_model
    from odin_slm.serving.observability import trace

    listening = _listen(settings)  # before the weights: a port in use is known at once
    model = resolve_model(settings.model, root=ROOT, base_model=settings.base_model, digest=settings.digest)
    app = build(settings, keys, model)
    trace(app, os.environ)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=settings.drain_s,
        ws="none",
    )
    listening.listen(config.backlog)  # who reads the next line may connect
    address = "{}:{}".format(*listening.getsockname()[:2])
    logging.getLogger(__name__).info("listening", extra={"address": address})
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn handles both while it runs and raises them again when it has ended well, which would be a failure.
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])


def build(settings: ServingSettings, keys: ApiKeys, model: Any) -> Any:
    """Return the application for a model, with the engine that the settings name."""
    from odin_slm.inference.reading import TokenBudget, all_instructions
    from odin_slm.models.base_model import context_of, load_tokenizer
    from odin_slm.models.tokenizer_probe import probe_tokenizer
    from odin_slm.serving.app import make_app
    from odin_slm.serving.observability import Metrics

    most = model.task.output_tokens(settings.max_new_tokens, settings.window_tokens)
    settings = settings.model_copy(update={"max_new_tokens": most})
    metrics = Metrics(model, settings.queue_size)
    tokenizer, context = load_tokenizer(model.base), context_of(model.base)
    engine = _engine(settings, model, tokenizer, context, metrics)
    if model.task.grammar(model.task.shared_instruction, model.task.example) is not None:
        probe_tokenizer(tokenizer)  # now, and not at the first request
    asked = all_instructions(model.task, model.instructions)
    budget = TokenBudget(tokenizer, context, settings.max_new_tokens, settings.window_tokens, asked)
    return make_app(model, engine, budget, metrics, settings, keys)


def _engine(settings: ServingSettings, model: Any, tokenizer: Any, context: int | None, metrics: Any) -> Any:
    """Return the engine that the settings name; see :mod:`odin_slm.serving.engine` for what each is there for."""
    sizes = {"queue_size": settings.queue_size, "max_new_tokens": settings.max_new_tokens}
    if settings.engine == "vllm":
        grammar = model.task.grammar(model.task.shared_instruction, model.task.example)
        if grammar is not None and grammar.judges:
            raise ServingError(
                "its calibrator asks for judged pairs, which vLLM does not do.",
                where=f"model {model.source}",
                fix="Serve it with --engine local, or evaluate it again with evaluation.relations=list.",
            )
        from odin_slm.inference.vllm import UNBIASED, AsyncVllm
        from odin_slm.serving.vllm import Vllm, VllmEngine, VllmServer
        from odin_slm.tasks.operating_point import point_of

        if point_of(model.calibrator).get("end_bias"):
            logging.getLogger(__name__).warning(UNBIASED)
        vllm: Vllm = (
            VllmServer(settings.vllm_url, settings.vllm_model, settings.queue_size + 1)  # one more for the canary
            if settings.vllm_url
            else AsyncVllm(model.base, model.adapter)
        )
        return VllmEngine(vllm, tokenizer, context, metrics, **sizes)
    sizes |= {"workers": settings.workers, "batch_size": settings.batch_size}
    wait = settings.batch_wait_ms / 1000
    if _in_processes(settings, model):
        from odin_slm.models.backends import reading_precision
        from odin_slm.serving.processes import ProcessEngine

        return ProcessEngine(
            model.base,
            model.adapter,
            tokenizer,
            context,
            metrics,
            batch_wait=wait,
            # decided once: processes that time the processor while all of them load might differ
            precision=reading_precision("auto") if settings.precision == "auto" else settings.precision,
            **sizes,
        )
    from odin_slm.inference.generation import Generator
    from odin_slm.serving.threads import ThreadEngine

    generator = Generator(model.base, model.adapter, settings.precision)
    return ThreadEngine(generator, metrics, batch_wait=wait, **sizes)


def _in_processes(settings: ServingSettings, model: Any) -> bool:
    from odin_slm.models.backends import cuda
    from odin_slm.serving.processes import available_cores, worth_processes

    if settings.decoders != "auto":
        return settings.decoders == "processes"
    several = (settings.workers or available_cores()) > 1
    return several and not cuda() and worth_processes(model.base, model.adapter)


def _listen(settings: ServingSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise ServingError(
            f"cannot listen there ({error.strerror}).",
            where=f"{settings.host}:{settings.port}",
            fix="End what uses the port, or choose another: --port.",
        ) from None
    return listening


def _fail(error: OdinError) -> None:
    click.secho("ERROR  ", fg="red", bold=True, nl=False, err=True)
    click.echo(f"{error.where}: {error.what}" if error.where else error.what, err=True)
    if error.fix:
        click.secho("  fix  ", fg="green", bold=True, nl=False, err=True)
        click.echo(error.fix, err=True)
    sys.exit(1)


main = click.Group(
    name="serving",
    params=[_option(name, field) for name, field in ServingSettings.model_fields.items()],
    callback=_serve,
    invoke_without_command=True,
    help=f"""Serve a model over HTTP: POST /predict, POST /extract, and a page at /.

    Every option is an environment variable as well. API keys come from {KEYS_VARIABLE} alone (NAME:SHA256, separated by
    commas); without any, everybody who reaches the port may ask.""",
)


@main.command("new-key")
@click.argument("name")
def new_key(name: str) -> None:
    """Make an API key: printed once for its user, and its hash for the service."""
    key = secrets.token_urlsafe(32)
    pair = f"{name}:{hash_key(key)}"
    try:
        ApiKeys(pair)
    except ServingError:
        raise click.BadParameter("expected letters, digits, '.', '_' or '-', at most 64.") from None
    click.echo(f"key for the user      {key}")
    click.echo(f"for {KEYS_VARIABLE}  {pair}")


if __name__ == "__main__":
    main(prog_name="python -m odin_slm.serving")
