"""A streaming HTTP client that costs next to nothing while it measures: it shares the cores with the servers.

It only stamps and keeps the bytes as they come; `read` makes sense of them when the measurement is over.
"""

from __future__ import annotations

import asyncio
import json
from time import perf_counter
from typing import cast

from bench.figures import Answer

_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Refused(Exception):
    """The server did not answer 200, or broke off."""


class Exchange:
    """One request and the pieces of its response, each with its time of arrival."""

    def __init__(self) -> None:
        self.started = perf_counter()
        self.pieces: list[tuple[float, bytes]] = []
        self.complete = False


class _Connection(asyncio.Protocol):
    """One request. llama.cpp's server closes after each stream, so everybody gets a connection a request."""

    def __init__(self, request: bytes, exchange: Exchange) -> None:
        self._request = request
        self._exchange = exchange
        self._tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)  # uvloop's does not inherit from asyncio's

    def data_received(self, data: bytes) -> None:
        pieces = self._exchange.pieces
        pieces.append((perf_counter(), data))
        if len(pieces) == 1 and not data.startswith(b"HTTP/1.1 200"):
            self._finish(Refused(data[:500].decode(errors="replace")))
        self._tail = self._tail[-len(_LAST_CHUNK) :] + data
        if self._tail.endswith(_LAST_CHUNK):
            self._finish(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(Refused("the server broke off"))

    def _finish(self, error: Refused | None) -> None:
        if self.done.done():
            return
        if error:
            self.done.set_exception(error)
        else:
            self._exchange.complete = True
            self.done.set_result(None)


async def ask(host: str, port: int, request: bytes, exchange: Exchange) -> None:
    """Send the request and wait until its response is complete; cut it off when cancelled. Raises Refused."""
    exchange.started = perf_counter()
    transport, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection(request, exchange), host, port
    )
    try:
        await connection.done
    finally:
        transport.close()


def post(host: str, port: int, path: str, body: object) -> bytes:
    """The bytes of a POST of JSON."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def read(exchange: Exchange) -> Answer:
    """What the bytes said. Servers put whole events into a chunk, so the chunks' own headers are skipped."""
    answer = Answer(exchange.started)
    carry = b""
    for stamp, data in exchange.pieces:
        *lines, carry = (carry + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                _read_event(json.loads(line[6:]), stamp, answer)
    if exchange.complete and answer.tokens is None:
        answer.tokens = len(answer.stamps)  # a server without usage in its streams
    return answer


def _read_event(event: dict[str, object], stamp: float, answer: Answer) -> None:
    if "error" in event:
        raise Refused(json.dumps(event["error"]))
    choices = event.get("choices")
    if isinstance(choices, list) and choices:
        choice = choices[0]
        if choice.get("text") or choice.get("delta", {}).get("content"):
            answer.stamps.append(stamp)
    usage = event.get("usage")
    if isinstance(usage, dict):
        answer.tokens = usage["completion_tokens"]
        answer.prompt_tokens = usage["prompt_tokens"]
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
