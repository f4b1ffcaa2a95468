"""Nodes that have not what they should have, for too long: an event, and one when they have caught up."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import or_, select

from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.events import record_event
from cloud_sync.controller.store.tables import Node
from cloud_sync.controller.store.telemetry_tables import Behind

What = Literal["generation", "telemetry"]
NOT_COUNTED = ("cloned", "revoked", "gone")
_TURN = 4242022


class Behinds:
    """`generation`: a node has not observed its newest Desired. `telemetry`: too many rows wait there."""

    def __init__(self, store: Store, settings: ControllerSettings) -> None:
        self._store, self._settings = store, settings

    async def sweep(self) -> None:
        """Note who is behind now and who is no longer."""
        async with self._store.turn(_TURN) as session:
            if session is None:
                return
            now = self._store.now()
            late = select(Node).where(
                Node.state.not_in(NOT_COUNTED),
                Node.seen_at.is_not(None),
                or_(
                    Node.generation > Node.observed_generation,
                    Node.backlog > self._settings.backlog_rows,
                ),
            )
            by = {
                (node.id, what): (node.name, by)
                for node in await session.scalars(late)
                for what, by in self._lags(node).items()
            }
            known = select(Behind, Node.name, Node.state).join(Node, Node.id == Behind.node)
            for row, name, state in await session.execute(known):
                lag = by.pop((row.node, row.what), None)  # type: ignore[arg-type]
                told = {"what": row.what, "behind_s": round(now - row.since, 3)}
                if lag is None:
                    await session.delete(row)
                    if row.alarmed_at is not None and state not in NOT_COUNTED:
                        record_event(session, now, name, "node.caught_up", told)
                elif row.alarmed_at is None and now - row.since >= self._settings.behind_after_s:
                    row.alarmed_at = now
                    record_event(session, now, name, "node.behind", {**told, "by": lag[1]})
            session.add_all(Behind(node=id, what=what, since=now) for id, what in by)

    def _lags(self, node: Node) -> dict[What, int]:
        """By how many generations, and by how many rows."""
        found: dict[What, int] = {}
        if (generations := node.generation - node.observed_generation) > 0:
            found["generation"] = generations
        if node.backlog > self._settings.backlog_rows:
            found["telemetry"] = node.backlog
        return found
