"""From Tickets to the bytes of their answer: follow them, let go when the caller is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.doors.http.errors import error_object, json_response
from agent.doors.openai.answers import Answer, Stream
from agent.errors import AgentError
from agent.request import Chunk

PING_S = 15.0
"""A stream says at least something this often, so that proxies keep the connection."""
_PING = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"


class Cancellable(Protocol):
    """Any kind of Ticket."""

    def cancel(self) -> None: ...


class Ticket(Cancellable, Protocol):
    """What serving gives for a Request."""

    def __aiter__(self) -> AsyncIterator[Chunk]: ...


class WholeAnswer(Response):
    """One JSON object, when everything is there."""

    def __init__(self, tickets: Sequence[Ticket], answer: Answer) -> None:
        super().__init__()
        self._tickets, self._answer = tickets, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with follow(self._tickets, receive):
            async for prompt, chunk in _chunks(self._tickets):
                self._answer.add(chunk, prompt)
        await json_response(self._answer.completion())(scope, receive, send)


class EventStream(Response):
    """Server-sent events. The status waits for the first Chunk: until then an error is a plain HTTP error."""

    def __init__(self, tickets: Sequence[Ticket], stream: Stream, *, ping_s: float = PING_S) -> None:
        super().__init__()
        self._tickets, self._stream = tickets, stream
        self._ping_s = ping_s
        self._last = 0.0  # when something was sent; 0: nothing was

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with follow(self._tickets, receive), self._pinging(send):
            try:
                async for prompt, chunk in _chunks(self._tickets):
                    await self._say(send, self._stream.events(chunk, prompt))
            except AgentError as error:
                if not self._last:
                    raise
                end = b"data: " + json.dumps(error_object(error)).encode() + b"\n\n"
            else:
                end = b"".join(b"data: " + event + b"\n\n" for event in self._stream.ending()) + _DONE
        await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _say(self, send: Send, events: list[bytes]) -> None:
        if not self._last:
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),  # nginx would gather the events otherwise
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        if events:
            body = b"data: " + b"\n\ndata: ".join(events) + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        self._last = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def _pinging(self, send: Send) -> AsyncIterator[None]:
        async def ping() -> None:
            loop = asyncio.get_running_loop()
            while True:
                await asyncio.sleep(self._ping_s)
                if self._last and loop.time() - self._last >= self._ping_s:
                    await send({"type": "http.response.body", "body": _PING, "more_body": True})

        async with _beside(asyncio.create_task(ping())):
            yield


async def _chunks(tickets: Sequence[Ticket]) -> AsyncIterator[tuple[int, Chunk]]:
    """Prompt after prompt: they are computed together, and what is not yet read waits in its Ticket."""
    for prompt, ticket in enumerate(tickets):
        async for chunk in ticket:
            yield prompt, chunk


@asynccontextmanager
async def follow(tickets: Sequence[Cancellable], receive: Receive) -> AsyncIterator[None]:
    """While inside, a client that disconnects ends the Tickets; leaving ends what is left of them."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        _cancel(tickets)

    try:
        async with _beside(asyncio.create_task(watch())):
            yield
    finally:
        _cancel(tickets)


@asynccontextmanager
async def _beside(task: asyncio.Task[None]) -> AsyncIterator[None]:
    """The task lives as long as the block."""
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _cancel(tickets: Iterable[Cancellable]) -> None:
    for ticket in tickets:
        ticket.cancel()
