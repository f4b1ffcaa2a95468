"""Retention: old points become hours, what is too old goes, SQLite's file shrinks. By one copy at a time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, Table, case, delete, func, insert, literal, select, text

from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.telemetry_tables import HOURS, POINTS, Excerpt, FleetEvent, Series
from cloud_sync.controller.store.turns import Turn
from cloud_sync.controller.telemetry import partitions

DAY, HOUR = 86400, 3600
AHEAD = 2  # partitions that are there before they are needed
MOST_ROWS = 5000  # that one transaction deletes
MOST_PAGES = 2000  # that one transaction gives back, and that stay free
LOCK_S = 5  # to drop a partition waits for those who read, and all who write wait behind it


class Keeping:
    """Points go a day after their time is over: until then batches may come with points as old."""

    def __init__(self, store: Store, settings: ControllerSettings) -> None:
        self._store, self._settings = store, settings

    async def tidy(self) -> None:
        now, keep = self._store.now(), self._settings
        ended = [(POINTS, now - keep.points_keep_s - DAY), (HOURS, now - keep.hours_keep_s - DAY)]
        await self._delete(FleetEvent, FleetEvent.received_at < now - keep.events_keep_s)
        for stream, keep_s in (("logs", keep.logs_keep_s), ("samples", keep.samples_keep_s)):
            old = (Excerpt.stream == stream) & (Excerpt.received_at < now - keep_s)
            await self._delete(Excerpt, old)
        await self._delete(Series, Series.seen_at < min(end for _, end in ended) - DAY)
        for table, end in ended:
            if self._store.postgres:
                await self._make_ahead(table, now)
                await self._drop(table, end)
            else:
                await self._cut(table, end)
        if not self._store.postgres:
            await self._shrink()

    async def _make_ahead(self, table: Table, now: float) -> None:
        async with self._store.turn(Turn.TIDY) as session:
            if session is not None:
                today = partitions.index(table, now)
                await partitions.ensure(session, table, range(today, today + AHEAD + 1))

    async def _drop(self, table: Table, end: float) -> None:
        """Partitions that were over before `end`."""
        while True:
            async with self._store.turn(Turn.TIDY) as session:
                if session is None:
                    return
                oldest = next(iter(await partitions.there(session, table)), None)
                if oldest is None or partitions.end(table, oldest) > end:
                    return
                await session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_S}s'"))
                if table is POINTS and self._settings.hours_keep_s:
                    begin, until = partitions.end(table, oldest - 1), partitions.end(table, oldest)
                    await partitions.ensure(session, HOURS, [partitions.index(HOURS, begin)])
                    await session.execute(_gathered((POINTS.c.at >= begin) & (POINTS.c.at < until)))
                await session.execute(text(f"DROP TABLE {partitions.name(table, oldest)}"))

    async def _cut(self, table: Table, end: float) -> None:
        """Rows from before `end`, an hour's at a time."""
        while True:
            async with self._store.turn(Turn.TIDY) as session:
                assert session is not None  # noqa: S101 - for the type checker: SQLite has one copy
                oldest = await session.scalar(select(func.min(table.c.at)))
                if oldest is None or (until := (oldest // HOUR + 1) * HOUR) > end:
                    return
                old = table.c.at < until
                if table is POINTS and self._settings.hours_keep_s:
                    await session.execute(_gathered(old))
                await session.execute(delete(table).where(old))

    async def _delete(
        self, table: type[FleetEvent] | type[Excerpt] | type[Series], old: ColumnElement[bool]
    ) -> None:
        count = MOST_ROWS
        while count == MOST_ROWS:
            async with self._store.turn(Turn.TIDY) as session:
                if session is None:
                    return
                some = (await session.scalars(select(table.id).where(old).limit(MOST_ROWS))).all()
                await session.execute(delete(table).where(table.id.in_(some)))
                count = len(some)

    async def _shrink(self) -> None:
        """Free pages at the end of the file are given back."""
        while True:
            async with self._store.write() as session:
                connection = await (await session.connection()).get_raw_connection()
                plain: Any = connection.driver_connection
                [[free]] = await plain.execute_fetchall("PRAGMA freelist_count")
                if free <= MOST_PAGES:
                    return
                # Any other way to execute it gives one page back. It ends this transaction first.
                await plain.executescript(f"PRAGMA incremental_vacuum({MOST_PAGES})")


def _gathered(old: ColumnElement[bool]) -> Any:
    """Points, as hours: the statement that puts them there."""
    hour = (POINTS.c.at // HOUR * HOUR).label("hour")
    newest = func.row_number().over(partition_by=(POINTS.c.series, hour), order_by=POINTS.c.at.desc())
    c = select(POINTS, hour, newest.label("place")).where(old).cte("placed").c
    hours: Select[Any] = select(
        c.series,
        c.hour,
        literal(HOUR),
        func.sum(c.count),
        func.sum(c.sum),
        func.min(c.min),
        func.max(c.max),
        func.max(case((c.place == 1, c.last))),
    ).group_by(c.series, c.hour)
    return insert(HOURS).from_select([one.name for one in HOURS.c], hours)
