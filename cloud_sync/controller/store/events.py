"""Events of the fleet: recorded in a transaction, and put down as the last thing before its commit.

So their ids grow in the order of commits: one transaction at a time puts down events, and while it waits for
its turn it has all other locks that it needs, so that none waits for another in a circle.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.store.telemetry_tables import FleetEvent
from cloud_sync.controller.store.turns import Turn

_WAITING = "fleet_events"


def record_event(
    session: AsyncSession,
    now: float,
    node: str | None,
    kind: str,
    body: dict[str, Any],
    *,
    at: float | None = None,
    told_at: float | None = None,
) -> None:
    """`node`: its name. Of one that a node tells: `at` is when it was, `told_at` the same by its clock."""
    row = {
        "at": now if at is None else at,
        "received_at": now,
        "told_at": told_at,
        "node": node,
        "kind": kind,
        "body": body,
    }
    session.info.setdefault(_WAITING, []).append(row)


async def put_down(session: AsyncSession) -> None:
    """What was recorded. Nothing of the transaction may come after it."""
    if not (rows := session.info.pop(_WAITING, None)):
        return
    await session.flush()
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": Turn.PUT_DOWN_EVENTS})
    await session.execute(insert(FleetEvent), rows)
