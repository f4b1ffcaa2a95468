"""Batches of telemetry: each row is taken once, and nothing is said to be here before its commit."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.joining import standing
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.events import record_event
from cloud_sync.controller.store.tables import Node
from cloud_sync.controller.store.telemetry_tables import Excerpt, Mark
from cloud_sync.controller.telemetry.counts import Counts
from cloud_sync.controller.telemetry.marks import New, new
from cloud_sync.controller.telemetry.points import Points
from cloud_sync.controller.telemetry.times import Times
from cloud_sync.identity import Holder
from cloud_sync.messages import Received, Row, Stream, Telemetry

SKEW_NOTED_S = 1.0  # a change of less is not worth a write


class Ingest:
    def __init__(self, store: Store, settings: ControllerSettings, counts: Counts) -> None:
        self._store, self._counts = store, counts
        self._points = Points(settings, store.postgres)

    async def take(self, holder: Holder, batch: Telemetry) -> Received:
        """Keep what is new of it. Refused."""
        taken: dict[Stream, New] = {}
        points = 0
        async with self._store.write() as session:
            node = await _alone(session, holder)
            times = Times.of(self._store.now(), batch.sent_at, node.joined_at)
            if abs((node.clock_skew_s or 0.0) - times.skew_s) > SKEW_NOTED_S or node.clock_skew_s is None:
                node.clock_skew_s = times.skew_s
            marks = await _marks(session, node.id, batch.database)
            for stream, rows in batch.streams.items():
                mark = marks.get(stream) or _first_mark(session, node.id, batch.database, stream)
                found = taken[stream] = new(mark.seq, mark.ahead, rows)
                mark.seq, mark.ahead = found.seq, found.ahead
                points += await self._keep(session, node, stream, found, times)
        self._count(batch, taken, points)
        return Received(received={stream: found.seq for stream, found in taken.items()})

    async def _keep(self, session: AsyncSession, node: Node, stream: Stream, found: New, times: Times) -> int:
        """How many points there were."""
        if found.lost is not None:
            body = {"stream": stream, "first": found.lost[0], "last": found.lost[1]}
            record_event(session, times.now, node.name, "telemetry.lost", body)
        rows = []
        for row in found.rows:
            if row.kind == "gap":
                body = {**row.body, "stream": stream, "first": row.first or row.seq, "last": row.seq}
                _event(session, node, row.model_copy(update={"kind": "telemetry.gap", "body": body}), times)
            else:
                rows.append(row)
        if stream == "metrics":
            return await self._points.put(session, node, rows, times) if rows else 0
        for row in rows:
            if stream == "events":
                _event(session, node, row, times)
            else:
                session.add(_excerpt(node, stream, row, times))
        return 0

    def _count(self, batch: Telemetry, taken: dict[Stream, New], points: int) -> None:
        self._counts.points.inc(points)
        for stream, rows in batch.streams.items():
            found = taken[stream]
            self._counts.rows.labels(stream).inc(len(found.rows))
            self._counts.given_up.labels(stream).inc(_given_up(found.rows))
            self._counts.repeated.labels(stream).inc(
                sum(row.seq <= found.seq for row in rows) - len(found.rows)
            )


async def _alone(session: AsyncSession, holder: Holder) -> Node:
    """The node, whose batches are taken one after the other. Refused."""
    await session.execute(select(Node.id).where(Node.id == holder.node).with_for_update(key_share=True))
    return await standing(session, holder)


async def _marks(session: AsyncSession, node: str, database: str) -> dict[str, Mark]:
    asked = select(Mark).where(Mark.node == node, Mark.database == database)
    return {mark.stream: mark for mark in await session.scalars(asked)}


def _first_mark(session: AsyncSession, node: str, database: str, stream: str) -> Mark:
    mark = Mark(node=node, database=database, stream=stream, seq=0, ahead=0)
    session.add(mark)
    return mark


def _event(session: AsyncSession, node: Node, row: Row, times: Times) -> None:
    at, told_at = times.placed(row.at), times.told(row.at)
    record_event(session, times.now, node.name, _kind(row), row.body, at=at, told_at=told_at)


def _excerpt(node: Node, stream: str, row: Row, times: Times) -> Excerpt:
    return Excerpt(
        stream=stream,
        node=node.id,
        at=times.placed(row.at),
        received_at=times.now,
        told_at=times.told(row.at),
        kind=_kind(row),
        body=row.body,
    )


def _kind(row: Row) -> str:
    return row.kind.replace("\0", "\ufffd")  # which PostgreSQL does not take


def _given_up(rows: Sequence[Row]) -> int:
    return sum(row.seq - (row.first or row.seq) + 1 for row in rows if row.kind == "gap")
