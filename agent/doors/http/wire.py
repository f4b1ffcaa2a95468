"""uvicorn, with the bounds that it lacks, time and size of a request's head, and bodies in larger pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agent.doors.http.errors import error_object
from agent.errors import BadRequest

HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 15.0
PIECE = 256 * 1024  # bytes of a body that the application gets at once; uvloop reads no more
KEEP_ALIVE_S = 65  # longer than clients keep a connection, so that none is closed under a request on its way
CLOSING_S = 5
CONNECTIONS = 800
"""Requests beyond are answered by 503, connections beyond by nothing: paho's select() ends at file 1023."""


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the node's business."""
        yield


class _Gathering:
    """A transport that sends what one turn of the loop writes by one system call: uvicorn writes a response's
    head and body apart, and its client would be woken twice."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._written:
            data, self._written = b"".join(self._written), []
            if not self._transport.is_closing():  # the client went away meanwhile
                self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    """A head must come whole within HEAD_TIMEOUT_S, and be no larger than HEAD_BYTES.

    The application wakes for a whole body or a PIECE of it. uvicorn wakes it for whatever one read brought,
    stops and resumes reading at 64 KB, and copies each piece three times more. In the scope's state the
    application finds `whole`, which is true once the body has come, and `farewells`: what is there is called
    when the client goes away.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._farewells: set[Callable[[], None]] = set()
        self._came: list[bytes] = []  # of a body, and not given to the application yet
        self._came_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Gathering(transport, self.loop)))
        if len(self.connections) > CONNECTIONS + 50:
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)
        for farewell in tuple(self._farewells):
            farewell()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and self._head_timer is None:  # most come whole, and a timer costs a tenth of a read
            self._expect_head()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._came, self._came_bytes = [], 0  # a refused request may have left some
        super().on_message_begin()
        self.scope["state"] |= {"whole": False, "farewells": self._farewells}

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_came()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            return
        self._came.append(body)
        self._came_bytes += len(body)
        if self._came_bytes >= PIECE:
            self.flow.pause_reading()
            self._give()

    def on_message_complete(self) -> None:
        self.cycle.scope["state"]["whole"] = True
        if not self.cycle.response_complete:
            self._give()
        super().on_message_complete()

    def _give(self) -> None:
        """To the application, which makes bytes of it: no copy where it is nothing else."""
        cycle = self.cycle
        came = [bytes(cycle.body), *self._came] if cycle.body else self._came
        cycle.body = came[0] if len(came) == 1 else b"".join(came)  # type: ignore[assignment]
        self._came, self._came_bytes = [], 0
        cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        body = json.dumps(error_object(BadRequest(msg))).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-length: {len(body)}\r\n"
        rest = "content-type: application/json\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + rest.encode() + body)
        self.transport.close()

    def _expect_head(self) -> None:
        self._head_came()
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.timeout_keep_alive_handler)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > HEAD_BYTES:
            raise ValueError("the request's head is too large")  # the parser makes a 400 of it


def make_server(app: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSING_S,
        limit_concurrency=CONNECTIONS,
    )
    return _Server(config)
