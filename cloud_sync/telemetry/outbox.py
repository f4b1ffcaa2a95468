"""The node's telemetry on its disk, until the controller has it: a writer, as the node's database has one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from cloud_sync.messages import Stream, Telemetry
from cloud_sync.telemetry import ledger, schema
from cloud_sync.telemetry.rows import Backlog, Entry
from cloud_sync.writer import Act, StateError, Writer

NAME = "telemetry.sqlite"

T = TypeVar("T")
log = structlog.get_logger()


class Outbox:
    """The constructor blocks and raises StateError; all else is for the event loop, and raises StateError.

    `quota`: bytes of the file and its log together, asked at each use.
    """

    def __init__(self, path: Path, quota: Callable[[], int]) -> None:
        self._quota = quota
        try:
            self.set_aside = schema.prepare(path)  # the damaged file that was in the way, if any
            self._writer = Writer(partial(schema.connect, path))
        except (sqlite3.Error, OSError) as error:
            raise StateError(f"{path}: {error}") from error
        if self.set_aside is not None:
            log.error("the telemetry was damaged and is set aside", file=str(self.set_aside))
        self.backlog = Backlog()  # as of the last operation
        self._closed = False
        self._told: dict[Stream, int] = {}  # up to where the controller has it

    async def close(self) -> None:
        """Commit what is queued and let go of the file; what is asked for later is a StateError."""
        self._closed = True
        await asyncio.to_thread(self._writer.close)

    async def belong(self, fleet: str) -> None:
        """To be called before anything is sent to that fleet. What was written for another one goes."""
        if await self._do(partial(ledger.belong, fleet)):
            self._told = {}

    async def append(self, entries: Sequence[Entry]) -> None:
        """Returns after the commit; other rows may have gone to make room for these."""
        await self._do(partial(ledger.append, entries, self._quota()))

    async def offer(self, most_bytes: int, *, again: bool = False) -> Telemetry:
        """What is to be sent next: of JSON about so many bytes, or one row. Empty: nothing waits.

        `again`: of that alone which was offered before, and may be there already.
        """
        return await self._do(partial(ledger.offer, most_bytes, again, dict(self._told)))

    async def received(self, marks: Mapping[Stream, int]) -> bool:
        """The controller's answer. False: it brought nothing new."""
        gone = await self._do(partial(ledger.received, marks))
        known, self._told = self._told, {**self._told, **marks}
        return gone > 0 or known != self._told

    async def refuse(self, stream: Stream, seq: int) -> None:
        """A row that was offered will never be taken: it is given up."""
        await self._do(partial(ledger.refuse, stream, seq))

    async def _do(self, act: Act[T]) -> T:
        if self._closed:
            raise StateError("the telemetry's file is closed")
        answer, self.backlog = await self._writer.do(partial(_counted, act))
        return answer


def _counted(act: Act[T], db: sqlite3.Connection) -> tuple[T, Backlog]:
    return act(db), ledger.backlog(db)
