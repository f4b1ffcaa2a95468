"""Watches over nodes: who is not heard in time is lost. One copy of the controller at a time does it.

Time in which no controller was there to hear them does not count, nor do jumps of its clock.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.answers import Answers
from cloud_sync.controller.errors import Refused
from cloud_sync.controller.reports import Reports
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.events import record_event
from cloud_sync.controller.store.tables import Fleet, Node
from cloud_sync.controller.store.turns import Turn
from cloud_sync.identity import Holder

SWEEP_S = 2.0
GAP_S = 20.0  # longer than two sweeps are apart where a copy runs
ANSWERS_S = 600.0  # how often old answers are deleted
MOST = 1000  # lost nodes in one transaction
log = structlog.get_logger()


class Watch:
    def __init__(self, store: Store, reports: Reports, answers: Answers) -> None:
        self._store, self._reports, self._answers = store, reports, answers
        self._dropped: asyncio.Queue[tuple[Holder, str]] = asyncio.Queue()

    def dropped(self, holder: Holder, stream: str) -> None:
        """A node's stream of hints broke off."""
        self._dropped.put_nowait((holder, stream))

    async def run(self) -> None:
        answers_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._note_dropped())
            while True:
                try:
                    while await self.sweep() == MOST:
                        pass
                    if time.monotonic() > answers_at:
                        await self._answers.sweep()
                        answers_at = time.monotonic() + ANSWERS_S
                except (SQLAlchemyError, OSError) as error:
                    log.warning("nodes cannot be watched over", error=str(error), again_in_s=SWEEP_S)
                await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """How many nodes are lost since the last one."""
        async with self._store.turn(Turn.WATCH) as session:
            if session is None:
                return 0
            now = self._store.now()
            gap = await self._gap(session, now)
            due = select(Node).where(Node.state == "active", Node.due_at < now).order_by(Node.id).limit(MOST)
            lost = (await session.scalars(due.with_for_update(skip_locked=True))).all()
            for node in lost:
                node.state = "lost"
                body = {"address": node.address, "seen_at": node.seen_at}
                record_event(session, now, node.name, "node.lost", body)
            await session.flush()  # nodes before the fleet, as everywhere
            if gap is None or abs(gap) > GAP_S / 4:
                await session.execute(update(Fleet).values(watched_at=now))
            return len(lost)

    async def _gap(self, session: AsyncSession, now: float) -> float | None:
        """How long ago the last sweep was. Where nobody watched, nodes have as much time again."""
        watched_at: float | None = await session.scalar(select(Fleet.watched_at))
        if watched_at is None:
            return None
        gap: float = now - watched_at
        if abs(gap) > GAP_S:
            await session.execute(
                update(Node).where(Node.due_at.is_not(None)).values(due_at=Node.due_at + gap)
            )
        return gap

    async def _note_dropped(self) -> None:
        while True:
            together = [await self._dropped.get()]
            while not self._dropped.empty():
                together.append(self._dropped.get_nowait())
            noted = (self._reports.dropped(holder, stream) for holder, stream in together)
            for outcome in await asyncio.gather(*noted, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, Refused):
                    log.warning("a dropped stream cannot be noted", error=str(outcome))
