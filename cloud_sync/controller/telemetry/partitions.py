"""Points by days, hours by thirty days, on PostgreSQL: to drop a table costs little, to delete rows does not.

They are made ahead, and by the batch that needs one where nobody was there to do that.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.store.telemetry_tables import HOURS, POINTS
from cloud_sync.controller.store.turns import Turn

DAY = 86400
LENGTH = {POINTS.name: DAY, HOURS.name: 30 * DAY}  # seconds


def index(table: Table, at: float) -> int:
    """Which partition is for this time."""
    return int(at // LENGTH[table.name])


def name(table: Table, index: int) -> str:
    return f"{table.name}_p{index}"


def end(table: Table, index: int) -> int:
    """When it is over."""
    return (index + 1) * LENGTH[table.name]


async def ensure(session: AsyncSession, table: Table, wanted: Iterable[int]) -> None:
    """Before anything of the transaction has touched the table."""
    names = {name(table, one): one for one in wanted}
    if not (missing := names.keys() - {name(table, one) for one in await there(session, table)}):
        return
    await session.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": Turn.MAKE_PARTITIONS})
    for one in sorted(missing):
        bounds = f"FROM ({end(table, names[one] - 1)}) TO ({end(table, names[one])})"
        await session.execute(
            text(f"CREATE TABLE IF NOT EXISTS {one} PARTITION OF {table.name} FOR VALUES {bounds}")
        )


async def there(session: AsyncSession, table: Table) -> list[int]:
    """Those that there are, the oldest first."""
    asked = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(:name)")
    found = (await session.scalars(asked, {"name": table.name})).all()
    return sorted(int(one.rpartition("_p")[2]) for one in found)
