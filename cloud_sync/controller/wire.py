"""uvicorn as the controller needs it: it hands the client's certificate to the application.

Certificates are asked for and may be missing (`join` shares the port); whether one is over is for the
application to say, in words, so TLS does not look at the time.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CERTIFICATE = "client_certificate"  # PEM, in the scope's state
NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME
KEEP_ALIVE_S = 75
CLOSING_S = 3
HANDSHAKE_S = 15


class Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the command's business."""
        yield

    async def take(self, connection: socket.socket) -> None:
        """Serve a connection that was made elsewhere, until it ends; returns with TLS. OSError: without."""
        made = functools.partial(_Protocol, self.config, self.server_state, {})
        await asyncio.get_running_loop().connect_accepted_socket(
            made, connection, ssl=self.config.ssl, ssl_handshake_timeout=HANDSHAKE_S
        )


class _Protocol(HttpToolsProtocol):
    _certificate = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and (found := tls.getpeercert(binary_form=True)):
            self._certificate = ssl.DER_cert_to_PEM_cert(found).encode()

    def on_headers_complete(self) -> None:
        self.scope["state"][CERTIFICATE] = self._certificate
        super().on_headers_complete()


def make_server(app: ASGIApp, certificate: Path | None, ca: Path) -> Server:
    """`certificate`: with its key and chain, PEM; None: plain HTTP."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSING_S,
        backlog=4096,
        ssl_certfile=certificate,
        ssl_ca_certs=str(ca) if certificate else None,
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.verify_flags |= NO_CHECK_TIME
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return Server(config)
