"""`serve`: run the agent in this process."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

from agent.cli.errors import CommandError
from agent.cli.node import http_url, load_settings
from agent.cli.screen import Bar, err

if TYPE_CHECKING:
    from agent.config import Settings
    from models.sources import Progress


def serve(**given: Any) -> None:
    from agent.errors import AgentError
    from models.errors import ModelError

    settings = load_settings(**given)
    _greet(settings)
    try:
        serve_until_stopped(settings)
    except* (
        AgentError,
        ModelError,
        OSError,
    ) as errors:  # a port in use, a folder that cannot be written, ...
        raise CommandError(f"cannot serve: {_first(errors)}") from errors


def serve_until_stopped(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT. Only in the main thread, which alone may handle signals."""
    import structlog
    import uvloop

    from agent import log as logs
    from agent import node
    from agent.config import unknown_variables

    logs.configure(settings.log_level, settings.log_format)
    for warning in unknown_variables():
        structlog.get_logger().warning(warning)

    def log(line: str) -> None:
        structlog.get_logger().info(line)  # anew each time: the node configures logs when it starts

    with Bar(line=log) as bar, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        def report(now: Progress) -> None:
            bar.show(now.phase, now.done, now.total)
            if now.phase == "ready":
                log("the model is here: trying engine settings, then loading it")

        again = runner.run(node.run(settings, report=report))
    if again:  # in this process's place, so that whoever started it sees nothing
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _greet(settings: Settings) -> None:
    """Where everything will be, for a person who looks on."""
    if not err.is_terminal:
        return
    url = http_url(settings)
    mqtt = settings.mqtt_url or "off; autoglm serve --mqtt embedded turns it on"
    if settings.mqtt_url == "embedded":
        mqtt = (
            f"127.0.0.1:{settings.embedded_port} (3.1.1) and :{settings.embedded_port + 1} (5), broker inside"
        )
    elif settings.mqtt_url:
        mqtt = str(settings.public()["mqtt_url"])
    err.print(f"[bold]Open-AutoGLM Edge[/bold], node {settings.node}")
    err.print(f"  HTTP   {url}/v1   (pages: {url}/docs)")
    grpc = "off" if settings.grpc_port is None else f"{settings.http_host}:{settings.grpc_port}"
    err.print(f"  gRPC   {grpc}")
    err.print(f"  MQTT   {mqtt}")
    command = "autoglm" if shutil.which("autoglm") else os.path.relpath(sys.argv[0])
    err.print(f"  Model  {settings.model}", markup=False)
    err.print(f"         (where it cannot be had, the agent stays up: {command} status says why;")
    err.print(f"         then end this and serve another: {command} serve --model NAME)")
    err.print(f"  Data   {settings.data_dir}", markup=False)
    err.print(f'  Try    {command} generate "What is gravity?"   from another terminal; Ctrl-C ends this')
