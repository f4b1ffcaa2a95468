"""A streaming HTTP client that costs next to nothing while the clock runs: it shares the cores with the servers.

It only stamps and keeps the bytes as they come; `read` makes sense of them when the measurement is over.
"""

from __future__ import annotations

import asyncio
import json
from time import perf_counter

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


class Connection(asyncio.Protocol):
    """A kept-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._exchange = Exchange()
        self._tail = b""
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        pieces = self._exchange.pieces
        pieces.append((perf_counter(), data))
        if len(pieces) == 1 and not data.startswith(b"HTTP/1.1 200"):
            self._finish(Refused(data[:500].decode(errors="replace")))
        self._tail = self._tail[-len(_LAST_CHUNK) :] + data
        if self._tail.endswith(_LAST_CHUNK):
            self._finish(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._finish(Refused("the server closed the connection"))

    def _finish(self, error: Refused | None) -> None:
        if self._done and not self._done.done():
            if error:
                self._done.set_exception(error)
            else:
                self._exchange.complete = True
                self._done.set_result(None)

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, exchange: Exchange) -> None:
        """Send the whole request and wait until its response is complete. Raises Refused."""
        assert self._transport
        self._exchange, self._tail = exchange, b""
        self._done = asyncio.get_running_loop().create_future()
        exchange.started = perf_counter()
        self._transport.write(request)
        await self._done

    def close(self) -> None:
        if self._transport:
            self._transport.close()


async def connect(host: str, port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection


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
