"""`cloud serve`: run the controller in this process."""

from __future__ import annotations

import asyncio

from agent.cli.errors import CommandError, UsageError
from agent.cli.screen import err


def serve() -> None:
    import uvloop
    from pydantic import ValidationError

    from agent import log
    from cloud_sync.controller.config import ControllerSettings
    from cloud_sync.controller.serve import serve

    try:
        settings = ControllerSettings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(map(str, first["loc"])).upper()
        raise UsageError(f"AUTOGLM_CLOUD_{name}: {first['msg']}") from None
    log.configure(settings.log_level)
    if err.is_terminal:
        err.print("[bold]Open-AutoGLM Edge controller[/bold]")
        scheme = "https" if settings.tls else "http"
        err.print(f"  Address   {scheme}://{settings.host}:{settings.port}")
        err.print(f"  Data      {settings.data_dir}", markup=False)
        err.print("  Next      autoglm cloud token   makes a token, with which a machine joins")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot serve: {error}") from error
