"""Rows of metrics, as points of series."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import structlog
from sqlalchemy import Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.store.tables import Node
from cloud_sync.controller.store.telemetry_tables import HOURS, POINTS, Series
from cloud_sync.controller.telemetry import partitions
from cloud_sync.controller.telemetry.times import DAY, Times
from cloud_sync.messages import Row

NAME = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]{0,199})(\{[^\x00-\x1f]{0,800}\})?")
MOST = 2**53
MOST_COUNT, MOST_VALUE = 2**40, 1e100  # far from where the sums of an hour, or of a fleet, end
_VALUES = ("count", "sum", "min", "max", "last")
log = structlog.get_logger()


Values = dict[str, float]
"""Of a point: its columns, but for the series."""


class Points:
    def __init__(self, settings: ControllerSettings, postgres: bool) -> None:
        self._settings, self._postgres = settings, postgres

    async def put(self, session: AsyncSession, node: Node, rows: Sequence[Row], times: Times) -> int:
        """How many there were to keep. What is no point is left out, and so is a series too many."""
        points = [found for row in rows for found in _points(row, times.placed(row.at))]
        ids = await self._series(session, node, {name for name, _ in points}, times.now)
        tables: dict[Table, list[Values]] = {POINTS: [], HOURS: []}
        for name, values in points:
            table = self._table(values["at"], times.now)
            if table is not None and name in ids:
                tables[table].append({"series": ids[name], **values})
        if self._postgres:
            for table, made in tables.items():  # before any row
                days = {partitions.index(table, values["at"]) for values in made}
                await partitions.ensure(session, table, days)
        for table, made in tables.items():
            if made:
                await session.execute(insert(table), made)
        return sum(map(len, tables.values()))

    def _table(self, at: float, now: float) -> Table | None:
        if at >= now - self._settings.points_keep_s:
            return POINTS
        return HOURS if at >= now - self._settings.hours_keep_s else None

    async def _series(self, session: AsyncSession, node: Node, names: set[str], now: float) -> dict[str, int]:
        """Their ids; those that are new are made, as long as there is room."""
        mine = select(Series.name, Series.id, Series.seen_at).where(Series.node == node.id)
        found = (await session.execute(mine)).all()
        ids = {name: id for name, id, _ in found}
        if old := [id for name, id, seen_at in found if name in names and seen_at < now - DAY]:
            await session.execute(update(Series).where(Series.id.in_(old)).values(seen_at=now))
        if missing := sorted(names - ids.keys()):
            room = max(0, self._settings.series_per_node - len(found))
            if left_out := missing[room:]:
                log.warning("too many series", node=node.name, left_out=len(left_out), first=left_out[0])
            made = [_new(node.id, name, now) for name in missing[:room]]
            session.add_all(made)
            await session.flush()
            ids.update((one.name, one.id) for one in made)
        return ids


def _new(node: str, name: str, now: float) -> Series:
    return Series(node=node, name=name, metric=name.partition("{")[0], seen_at=now)


def _points(row: Row, at: float) -> Iterator[tuple[str, Values]]:
    """Names and values of those that are points."""
    period: Any = row.body.get("period_s")
    series = row.body.get("series")
    if not isinstance(series, dict) or not _is_number(period) or not 0 < period <= MOST:
        return
    time = {"at": int(at), "period_s": max(1, round(period))}
    for name, values in series.items():
        if not NAME.fullmatch(name) or not isinstance(values, list) or len(values) != len(_VALUES):
            continue
        if all(map(_is_number, values)) and 0 <= values[0] <= MOST_COUNT:
            count, *rest = values
            yield name, {**time, "count": round(count), **dict(zip(_VALUES[1:], rest, strict=True))}


def _is_number(value: Any) -> bool:
    """One that a column takes, and whose sums too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= (MOST if isinstance(value, int) else MOST_VALUE)  # which NaN is not
