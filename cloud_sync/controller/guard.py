"""Bounds on what comes in: a body's size, and the time that it may take."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_S = 30.0


class Guard:
    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app, self._most = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
            receive = _Body(receive, self._most, int(length) if length.isdigit() else 0).receive
        await self._app(scope, receive, send)


class _Body:
    """Raises HTTPException where it is read; nothing of a body that is said to be too large is read."""

    def __init__(self, receive: Receive, most: int, said: int) -> None:
        self._receive, self._most = receive, most
        self._said, self._came = said, 0  # bytes
        self._until = asyncio.get_running_loop().time() + BODY_S
        self._whole = False

    async def receive(self) -> Message:
        if max(self._said, self._came) > self._most:
            raise HTTPException(413, f"a body has at most {self._most} bytes")
        if self._whole:  # what comes now is that the client went away
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body took too long") from None
        if message["type"] == "http.request":
            self._came += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._came > self._most:
                return await self.receive()
        return message
