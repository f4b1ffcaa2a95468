"""One stream: between a local socket and numbered messages."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable

PIECE = 16 * 1024  # bytes of a message, beside its number
MOST_WAITING = 8 << 20  # bytes that came and that the local side has not taken yet
_NUMBER = struct.Struct(">I")

Send = Callable[[bytes], Awaitable[None]]


class Pipe:
    """`send` passes one message on, in order. A message without bytes is the stream's end."""

    def __init__(self, send: Send, piece: int = PIECE) -> None:
        self._send_message, self._piece = send, piece
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting = 0  # bytes
        self._next_in = self._next_out = 0

    def take(self, message: bytes) -> None:
        """One that came. What does not follow what was there ends the stream."""
        if len(message) < _NUMBER.size:
            return self.end()
        (number,) = _NUMBER.unpack_from(message)
        if number < self._next_in:  # the broker gave it twice
            return
        data = message[_NUMBER.size :]
        self._waiting += len(data)
        if number > self._next_in or self._waiting > MOST_WAITING:
            return self.end()
        self._next_in += 1
        self._arrived.put_nowait(data)

    def end(self) -> None:
        """The other side is gone."""
        self._arrived.put_nowait(b"")

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side ends; then the other hears of it."""
        both = [asyncio.ensure_future(one) for one in (self._outward(reader), self._inward(writer))]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                with contextlib.suppress(OSError):
                    one.result()
        finally:
            writer.close()  # what was written goes out before that
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self._send(b"")

    async def _outward(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(self._piece):
            await self._send(data)

    async def _inward(self, writer: asyncio.StreamWriter) -> None:
        while data := await self._arrived.get():
            writer.write(data)
            await writer.drain()
            self._waiting -= len(data)

    async def _send(self, data: bytes) -> None:
        message = _NUMBER.pack(self._next_out) + data
        self._next_out += 1
        await self._send_message(message)
