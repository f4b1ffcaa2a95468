"""Runs one copy of the controller until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

import structlog

from cloud_sync.controller.app import create_app
from cloud_sync.controller.certificate import ServerCertificate
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.core import Controller
from cloud_sync.controller.keys import ensure_keys, server_certificate
from cloud_sync.controller.store import open_store
from cloud_sync.controller.wire import make_server
from models.disk import write_private

SILENT_MS = 30_000  # what was sent and is not acknowledged for so long: the connection is gone
log = structlog.get_logger()


async def serve(settings: ControllerSettings) -> None:
    """Until SIGTERM or SIGINT. OSError, ValueError, fit for a person."""
    keys = await asyncio.to_thread(ensure_keys, settings.data_dir, time.time())
    store = await open_store(settings.database)
    try:
        controller = Controller(settings, store, keys)
        with _listening(settings) as listener:
            port = listener.getsockname()[1]
            certificate = await asyncio.to_thread(server_certificate, keys.authority, settings, time.time())
            try:
                server = make_server(create_app(controller), certificate, settings.data_dir / "ca.pem")
            finally:
                certificate.unlink()
            write_private(settings.data_dir / "port", str(port).encode())  # where the command line finds it
            log.info("listening", host=settings.host, port=port, database=store.engine.url.get_backend_name())
            loop = asyncio.get_running_loop()

            def stop() -> None:
                server.should_exit = True
                controller.hints.close()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(one.run()) for one in controller.workers]
                if server.config.ssl is not None:
                    own = ServerCertificate(server.config.ssl, keys.authority, settings)
                    loop.add_signal_handler(signal.SIGHUP, own.renew_now)
                    work.append(group.create_task(own.run()))
                await server.serve(sockets=[listener])
                for task in work:
                    task.cancel()
    finally:
        await store.close()


def _listening(settings: ControllerSettings) -> socket.socket:
    try:
        both = settings.host == "::" and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server(
            (settings.host, settings.port), family=family, backlog=4096, dualstack_ipv6=both
        )
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # a node that lost its power says no goodbye
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)
        return listener
    except OSError as error:
        raise OSError(
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror or error};"
            " see AUTOGLM_CLOUD_HOST and AUTOGLM_CLOUD_PORT"
        ) from error
