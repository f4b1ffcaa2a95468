"""What waits for receivers goes to the broker, in order, a window at a time; rows go when it has them.

At least once, and the bytes of a result are always the same: at each connection, and now and then within one,
all that is still in the outbox is published again (so are results that a receiver has not yet said it has).
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from agent.doors.inference_protocol.request import HEADER_LENGTH
from agent.doors.mqtt.link import Link
from agent.telemetry import Telemetry
from cloud_sync.state import Parcel, State, StateError

AGAIN_S = 60.0  # until the whole outbox is published again; doubles up to AGAIN_MOST_S
AGAIN_MOST_S = 3600.0
RETRY_S = 1.0
STRIKES = 3

log = structlog.get_logger()


class Outbox:
    """`run` with each connection; `wake` when a row was added; `published` when the broker answered."""

    def __init__(self, state: State, telemetry: Telemetry) -> None:
        self._state, self._telemetry = state, telemetry
        self._flying: set[int] = set()  # rows that the broker has not answered for
        self._aside: set[int] = set()  # rows that the broker did not bear: left out until the next round
        self._oldest = (0, 0)  # the row that the last connections ended at, and how many did
        self._highest = 0  # row ever published: what comes at or below it is a repeat
        self._wake = asyncio.Event()

    def wake(self) -> None:
        self._wake.set()

    def published(self, seq: int, refusal: str) -> None:
        self._flying.discard(seq)
        self._wake.set()
        if refusal:
            self._count("rejected")
            self._aside.add(seq)  # some brokers end the connection, too
            log.warning("the mqtt broker refused a message", reason=refusal, row=seq)
        else:
            self._state.delivered(seq).add_done_callback(_look)

    async def run(self, link: Link) -> None:
        self._note_end()
        again = AGAIN_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again):
                    await self._pass(link)
            again = min(2 * again, AGAIN_MOST_S)
            self._aside.clear()

    async def _pass(self, link: Link) -> None:
        """From the oldest row on, then whatever comes; until the caller begins anew."""
        cursor = 0
        while True:
            self._wake.clear()
            room = link.window - len(self._flying)
            try:
                parcels = await self._state.due(cursor, room) if room else []
            except StateError as error:
                log.error("the outbox cannot be read", error=str(error))
                parcels = []
                await asyncio.sleep(RETRY_S)
            for parcel in parcels:
                cursor = parcel.seq
                if parcel.seq in self._flying or parcel.seq in self._aside:
                    continue
                if _publish(link, parcel):
                    self._flying.add(parcel.seq)
                    self._count("repeated" if parcel.seq <= self._highest else "published")
                    self._highest = max(self._highest, parcel.seq)
                else:
                    self._count("too_large")
                    log.error(
                        "a result is too large for the mqtt broker",
                        topic=parcel.topic,
                        bytes=len(parcel.payload),
                    )
            if not parcels:
                await self._wake.wait()

    def _note_end(self) -> None:
        """Brokers answer in order: the oldest row without an answer may be what ended the connection."""
        oldest = min(self._flying, default=0)
        self._oldest = (oldest, self._oldest[1] + 1 if oldest == self._oldest[0] else 1)
        self._flying.clear()
        if oldest and self._oldest[1] >= STRIKES:
            self._count("stuck")
            log.error("connections end at one outbox row: it waits for the next round", row=oldest)
            self._aside.add(oldest)

    def _count(self, kind: str) -> None:
        self._telemetry.mqtt_messages.labels(kind=kind).inc()


def _publish(link: Link, parcel: Parcel) -> bool:
    length = parcel.header_length
    user = () if length is None else ((HEADER_LENGTH, str(length)),)
    return link.publish(parcel.seq, parcel.topic, parcel.payload, correlation=parcel.correlation, user=user)


def _look(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()):
        log.warning(
            "an outbox row stays, and will be published again", error=str(error)
        )  # it is published once more, which is allowed
