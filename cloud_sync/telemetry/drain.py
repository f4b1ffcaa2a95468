"""Brings what waits to the controller, and lets go of it when the controller says that it has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
import zstandard

from cloud_sync.backoff import pause
from cloud_sync.messages import Telemetry
from cloud_sync.telemetry.outbox import Outbox
from cloud_sync.telemetry.pace import Pace
from cloud_sync.telemetry.rows import GAP
from cloud_sync.transports.transport import LinkError, Rejected, Transport
from cloud_sync.writer import StateError

LEAST_BYTES, MOST_BYTES = 4 << 10, 256 << 10  # of a batch, as JSON
BATCH_S = 10.0  # that the link is taken for one batch, about
ENVELOPE = 400  # bytes of HTTP around a batch and its answer, about
REFUSED_S = 600.0  # how soon again where telemetry is refused as such
UNREADABLE = frozenset({"invalid", "too_large"})  # codes: some row of it will never be taken
HURRY_S = 300.0  # for each news that does not wait for the heartbeat; a dozen may come at once
HURRIES = 12

log = structlog.get_logger()


class Drain:
    """`rate`: bytes a second that telemetry may take of the link, asked at each use.

    What waits goes when the link answers: an idle node's goes with its heartbeat.
    """

    def __init__(self, rate: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._outbox: Outbox | None = None
        self._pace, self._rate = Pace(clock), rate
        self._hurries = Pace(clock)
        self._there = False  # the controller, when it was last asked
        self._due, self._opened = asyncio.Event(), asyncio.Event()
        self._most = MOST_BYTES
        self.sent_bytes = self.sent_batches = 0  # that were received

    @property
    def backlog(self) -> dict[str, int]:
        """Rows that wait, by stream; without those that have none."""
        if self._outbox is None:
            return {}
        return {stream: count for stream, count in self._outbox.backlog.rows.items() if count}

    def open(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._opened.set()

    def close(self) -> None:
        self._outbox = None
        self._opened.clear()

    def link(self, there: bool) -> None:
        """Whether the controller answers: if it does, what waits can go."""
        self._there = there
        if there:
            self._due.set()

    def hurry(self) -> None:
        """Something is worth a request of its own; not too often, nor where nobody answers."""
        if self._there and self._hurries.ahead_s < HURRY_S * HURRIES:
            self._hurries.take(HURRY_S)
            self._due.set()

    async def run(self, transport: Transport, fleet: str) -> None:
        """Until cancelled. What fails here takes nothing with it."""
        self._due.clear()
        while True:
            await self._due.wait()
            await self._opened.wait()
            self._due.clear()
            if self._outbox is not None:
                try:
                    await self._outbox.belong(fleet)
                    await self._empty(self._outbox, transport)
                except StateError as error:
                    log.warning("telemetry cannot be read", reason=str(error))
                except Exception:  # ours: it must cost no more than telemetry
                    log.exception("telemetry cannot be sent")

    async def _empty(self, outbox: Outbox, transport: Transport) -> None:
        failures = 0
        while outbox is self._outbox:
            most = int(min(self._most, max(LEAST_BYTES, self._rate() * BATCH_S)))
            batch = await outbox.offer(most, again=failures > 0)
            if not batch.streams and not failures:
                return
            try:
                progress = not batch.streams or await self._send(outbox, batch, transport)
            except LinkError as error:
                log.debug("telemetry waits", reason=str(error))
                self._most = max(LEAST_BYTES, self._most // 2)  # less is through sooner
                progress = False
            except Rejected as error:
                await self._refused(error, outbox, batch)
                progress = False
            failures = 0 if progress else failures + 1
            if failures:
                await asyncio.sleep(pause(failures))

    async def _send(self, outbox: Outbox, batch: Telemetry, transport: Transport) -> bool:
        """Whether anything came of it. LinkError, Rejected."""
        await asyncio.sleep(self._pace.ahead_s)
        data = await asyncio.to_thread(packed, batch)
        self._pace.take((len(data) + ENVELOPE) / self._rate())
        answer = await transport.telemetry(data)
        self.sent_bytes += len(data) + ENVELOPE
        self.sent_batches += 1
        self._most = min(MOST_BYTES, self._most * 2)
        return await outbox.received(answer.received)

    async def _refused(self, error: Rejected, outbox: Outbox, batch: Telemetry) -> None:
        """Give up the row that will never be taken, once it is alone; wait, where it is not for a row."""
        stream, rows = next(iter(batch.streams.items()))
        if error.code not in UNREADABLE:
            log.warning("telemetry is refused", reason=error.message, again_in_s=REFUSED_S)
            await asyncio.sleep(REFUSED_S)
        elif self._most > 1:
            self._most = 1  # from here on row by row, then twice as much each time
        elif rows[-1].kind != GAP:
            log.warning("a row of telemetry is given up", stream=stream, reason=error.message)
            await outbox.refuse(stream, rows[-1].seq)


def packed(batch: Telemetry) -> bytes:
    """As it travels: JSON, by zstd. The time of sending is put in."""
    told = batch.model_copy(update={"sent_at": time.time()})
    return zstandard.compress(told.model_dump_json(exclude_none=True).encode())
