"""`serve`: run the agent in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agent.cli.errors import CommandError
from agent.cli.node import http_url, load_settings
from agent.cli.screen import Bar, err

if TYPE_CHECKING:
    from agent.config import Settings


def serve(**given: Any) -> None:
    import uvloop

    from agent import log, node

    settings = load_settings(**given)
    log.configure(settings.log_level, settings.log_format)
    _greet(settings)
    with Bar() as bar, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(node.run(settings, report=lambda now: bar.show(now.phase, now.done, now.total)))
        except KeyboardInterrupt:
            return
        except OSError as error:  # a port in use, a data directory that cannot be written
            raise CommandError(f"cannot serve: {error}") from error


def _greet(settings: Settings) -> None:
    """Where everything will be, for a person who looks on."""
    if not err.is_terminal:
        return
    url = http_url(settings)
    mqtt = settings.mqtt_url or "off; AUTOGLM_MQTT_URL=embedded turns it on"
    if settings.mqtt_url == "embedded":
        mqtt = (
            f"127.0.0.1:{settings.embedded_port} (3.1.1) and :{settings.embedded_port + 1} (5), broker inside"
        )
    elif settings.mqtt_url:
        mqtt = str(settings.public()["mqtt_url"])
    err.print(f"[bold]Open-AutoGLM Edge[/bold], node {settings.node}")
    err.print(f"  HTTP   {url}/v1   (pages: {url}/docs)")
    err.print(f"  MQTT   {mqtt}")
    err.print(f"  Data   {settings.data_dir}", markup=False)
    err.print('  Try    autoglm generate "What is an edge device?"   from another terminal; Ctrl-C ends this')
