"""Nodes that have not what they should have, for too long: an event, and one when they have caught up."""

from __future__ import annotations

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.events import record_event
from cloud_sync.controller.store.tables import Node
from cloud_sync.controller.store.telemetry_tables import Behind
from cloud_sync.controller.store.turns import Turn

NOT_COUNTED = ("cloned", "revoked", "gone")


class Behinds:
    """`generation`: a node has not observed its newest Desired. `telemetry`: too many rows wait there."""

    def __init__(self, store: Store, settings: ControllerSettings) -> None:
        self._store, self._settings = store, settings

    async def sweep(self) -> None:
        """Note who is behind now and who is no longer."""
        async with self._store.turn(Turn.LOOK_FOR_BEHIND) as session:
            if session is None:
                return
            now = self._store.now()
            late = await self._late(session)
            known = select(Behind, Node.name, Node.state).join(Node, Node.id == Behind.node)
            for row, name, state in (await session.execute(known)).all():
                by = late.pop((row.node, row.what), None)
                told = {"what": row.what, "behind_s": round(now - row.since, 3)}
                if by is None:
                    await session.delete(row)
                    if row.alarmed_at is not None and state not in NOT_COUNTED:
                        record_event(session, now, name, "node.caught_up", told)
                elif row.alarmed_at is None and now - row.since >= self._settings.behind_after_s:
                    row.alarmed_at = now
                    record_event(session, now, name, "node.behind", {**told, "by": by})
            session.add_all(Behind(node=node, what=what, since=now) for node, what in late)

    async def _late(self, session: AsyncSession) -> dict[tuple[str, str], int]:
        """By how many generations or rows, for each node and what it is behind in."""
        most = self._settings.backlog_rows
        asked = select(Node.id, Node.generation - Node.observed_generation, Node.backlog).where(
            Node.state.not_in(NOT_COUNTED),
            Node.seen_at.is_not(None),
            or_(Node.generation > Node.observed_generation, Node.backlog > most),
        )
        found = {}
        for node, generations, backlog in await session.execute(asked):
            if generations > 0:
                found[node, "generation"] = generations
            if backlog > most:
                found[node, "telemetry"] = backlog
        return found
