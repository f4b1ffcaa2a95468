"""One HTTP request and its response, kept within bounds: body size, time for the body, a clean close."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from agent.doors.http.errors import BodiesFull, BodyTimeout
from agent.errors import TooLarge
from agent.ids import new_id

LINGER_S = 2.0
LINGER_BYTES = 16 * 1024 * 1024
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Bodies:
    """Room for all the bodies that are on their way: many slow ones together must not fill the memory."""

    def __init__(self, most: int) -> None:
        self.left = most  # bytes


class Exchange:
    """Stands between the server and the application; `receive` and `send` are what the application gets."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        bodies: Bodies,
        max_body: int,
        body_timeout: float,
    ) -> None:
        self.headers: Mapping[str, str] = _headers(scope)
        asked = self.headers.get("x-request-id", "")
        self.id = asked if _SANE_ID.fullmatch(asked) else new_id("req")
        self.status = 0  # of the response, once it has begun
        self.gone = False  # the client is
        self.started = time.monotonic()
        self._receive, self._send = receive, send
        self._state: dict[str, Any] = scope.setdefault("state", {})
        self._max_body = max_body
        self._body_timeout = body_timeout
        self._received = 0
        self._bodies = bodies
        self._held = 0  # bytes of their room
        length = self.headers.get("content-length", "0")
        self._length = int(length) if length.isdecimal() else 0
        self._body_done = self._length == 0 and "transfer-encoding" not in self.headers
        self._lingers = False

    def check_length(self) -> None:
        """Refuse before anything of the body was read."""
        if self._length > self._max_body:
            raise self._too_large()

    async def receive(self) -> Message:
        """Raises TooLarge, BodyTimeout and BodiesFull while the body comes."""
        if self._body_done:
            return self._noted(await self._receive())
        message = self._noted(await (self._receive() if self._state.get("whole") else self._in_time()))
        if self._received > self._max_body:
            raise self._too_large()
        self._hold(len(message.get("body", b"")))
        return message

    async def _in_time(self) -> Message:
        try:
            async with asyncio.timeout(self.started + self._body_timeout - time.monotonic()):
                return await self._receive()
        except TimeoutError:
            raise BodyTimeout(f"The request's body did not arrive within {self._body_timeout:g} s.") from None

    def _hold(self, size: int) -> None:
        if self._body_done:
            return self.release()
        self._held += size
        self._bodies.left -= size
        if self._bodies.left < 0:
            self.release()
            raise BodiesFull("Too many request bodies are on their way at once.", retry_after=1)

    def release(self) -> None:
        """The body is whole, or no longer of interest."""
        self._bodies.left += self._held
        self._held = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            if not self._body_done:
                self._lingers = True
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        elif self._lingers and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _linger(self) -> None:
        """Swallow some of a refused body: closing at once would reset the connection and lose our answer."""
        end = self._received + LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while not (self._body_done or self.gone) and self._received < end:
                    self._noted(await self._receive())
        except TimeoutError:
            return

    def _noted(self, message: Message) -> Message:
        if message["type"] == "http.disconnect":
            self.gone = True
            self._body_done = True
        else:
            self._received += len(message.get("body", b""))
            self._body_done = not message.get("more_body", False)
        return message

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request's body is larger than {self._max_body} bytes.")


def _headers(scope: Scope) -> dict[str, str]:
    """Of a header that came twice, the last; `Host` twice is seen as none."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1")
        headers[key] = "" if key == "host" and key in headers else value.decode("latin-1")
    return headers
