"""Runs one copy of the controller until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time

import structlog
from starlette.types import ASGIApp

from cloud_sync.controller.app import create_app
from cloud_sync.controller.certificate import ServerCertificate
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.core import Controller
from cloud_sync.controller.keys import ensure_keys, server_certificate
from cloud_sync.controller.store import open_store
from cloud_sync.controller.tunnels import serve_tunnels
from cloud_sync.controller.wire import Server, make_server
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
            app = create_app(controller)
            server = await asyncio.to_thread(_server, controller, app, settings.tls)
            for name, value in (("scheme", "https" if settings.tls else "http"), ("port", str(port))):
                write_private(settings.data_dir / name, value.encode())  # where the command line finds it
            log.info("listening", host=settings.host, port=port, database=store.engine.url.get_backend_name())
            if not settings.tls:
                log.warning("without TLS: let nobody but the proxy reach this port")
            _collect_rarely()
            loop = asyncio.get_running_loop()

            def stop() -> None:
                server.should_exit = True
                controller.hints.close()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(controller.run())]
                inner = server  # which has TLS, whatever stands before this port
                if settings.mqtt_url:
                    if not settings.tls:
                        inner = await asyncio.to_thread(_server, controller, app, True)
                    beside.append(group.create_task(serve_tunnels(settings.broker(), inner)))
                if inner.config.ssl is not None:
                    own = ServerCertificate(inner.config.ssl, keys.authority, settings)
                    loop.add_signal_handler(signal.SIGHUP, own.renew_now)
                    beside.append(group.create_task(own.run()))
                await server.serve(sockets=[listener])
                for task in beside:
                    task.cancel()
    finally:
        await store.close()


def _server(controller: Controller, app: ASGIApp, tls: bool) -> Server:
    folder = controller.settings.data_dir
    if not tls:
        return make_server(app, None, folder / "ca.pem")
    certificate = server_certificate(controller.keys.authority, controller.settings, time.time())
    try:
        return make_server(app, certificate, folder / "ca.pem")
    finally:
        certificate.unlink()


def _collect_rarely() -> None:
    """To look through all that 10,000 connections hold takes half a second, and finds next to nothing."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


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
