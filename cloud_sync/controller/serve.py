"""Runs one copy of the controller until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

import structlog

from cloud_sync.controller.app import create_app
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.core import Controller
from cloud_sync.controller.keys import ensure_keys, server_certificate
from cloud_sync.controller.store import open_store
from cloud_sync.controller.wire import Server, make_server
from models.disk import write_private

log = structlog.get_logger()


async def serve(settings: ControllerSettings) -> None:
    """Until SIGTERM or SIGINT. OSError, ValueError, fit for a person."""
    keys = await asyncio.to_thread(ensure_keys, settings.data_dir, time.time())
    store = await open_store(settings.database)
    try:
        controller = Controller(settings, store, keys)
        with _listening(settings) as listener:
            port = listener.getsockname()[1]
            server = await asyncio.to_thread(_server, controller)
            for name, value in (("scheme", "https" if settings.tls else "http"), ("port", str(port))):
                write_private(settings.data_dir / name, value.encode())  # where the command line finds it
            log.info("listening", host=settings.host, port=port, database=store.engine.url.get_backend_name())
            if not settings.tls:
                log.warning("without TLS: let nobody but the proxy reach this port")
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, setattr, server, "should_exit", True)
            async with asyncio.TaskGroup() as group:
                beside = group.create_task(controller.run())
                await server.serve(sockets=[listener])
                beside.cancel()
    finally:
        await store.close()


def _server(controller: Controller) -> Server:
    app, folder = create_app(controller), controller.settings.data_dir
    if not controller.settings.tls:
        return make_server(app, None, folder / "ca.pem")
    certificate = server_certificate(controller.keys.authority, controller.settings, time.time())
    try:
        return make_server(app, certificate, folder / "ca.pem")
    finally:
        certificate.unlink()


def _listening(settings: ControllerSettings) -> socket.socket:
    try:
        both = settings.host == "::" and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server(
            (settings.host, settings.port), family=family, backlog=4096, dualstack_ipv6=both
        )
    except OSError as error:
        raise OSError(
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror or error};"
            " see AUTOGLM_CLOUD_HOST and AUTOGLM_CLOUD_PORT"
        ) from error
