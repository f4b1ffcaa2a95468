"""The tokens of one prompt as they come: numbered messages, gathered for up to 50 ms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agent.doors.mqtt.intake import encode
from agent.request import Chunk

GATHER_S = 0.05


class Tokens:
    """Sends `{"id", "seq", "attempt", "index", "text", "finish_reason"}` by `send`.

    `seq` counts from 0 within an attempt, over all indices, so that a receiver sees what it lost; a higher
    `attempt` makes what came before it void.
    """

    def __init__(self, id: str, attempt: int, send: Callable[[bytes], None]) -> None:
        self._id, self._attempt, self._send = id, attempt, send
        self._seq = 0
        self._texts: dict[int, list[str]] = {}
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin_again(self, attempts: int) -> None:
        self._attempt += attempts
        self._seq = 0
        self._texts.clear()

    def add(self, index: int, chunk: Chunk) -> None:
        self._texts.setdefault(index, []).append(chunk.text)
        if chunk.finish:
            self._say(index, chunk.finish)
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._sent_at + GATHER_S), self._flush)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        self._timer = None
        for index in list(self._texts):
            self._say(index, None)
        self._sent_at = asyncio.get_running_loop().time()

    def _say(self, index: int, finish: str | None) -> None:
        said: dict[str, Any] = {"id": self._id, "seq": self._seq, "attempt": self._attempt}
        said |= {"index": index, "text": "".join(self._texts.pop(index)), "finish_reason": finish}
        self._seq += 1
        self._send(encode(said))
