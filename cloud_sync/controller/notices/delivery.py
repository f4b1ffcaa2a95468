"""Delivers notices. Copies of the controller take turns: who works for a receiver holds it for a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import structlog
from sqlalchemy import CursorResult, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from cloud_sync.controller.notices import webhook
from cloud_sync.controller.notices.hooks import MQTT, Hooks
from cloud_sync.controller.notices.mqtt import Publisher
from cloud_sync.controller.notices.notice import NotDelivered, Notice
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.hooks import Hook
from cloud_sync.controller.store.telemetry_tables import FleetEvent

LOOK_S = 1.0
HELD_S = 60.0  # longer than any delivery takes
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
SKEW_S = (
    60.0  # between copies of the controller; what is later than any pause was before a clock was set back
)
MOST = 100  # events in one turn
log = structlog.get_logger()


@contextlib.contextmanager
def _database_may_be_away() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        log.warning("notices wait for the database", error=str(error))


class Delivery:
    def __init__(self, store: Store, hooks: Hooks, mqtt_url: str) -> None:
        self._store, self._hooks, self._mqtt_url = store, hooks, mqtt_url
        self._publisher = Publisher(mqtt_url)
        self._client = webhook.new_client()
        self._busy: set[str] = set()  # receivers for whom this copy works

    async def run(self) -> None:
        """Until cancelled."""
        settled = False
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    with _database_may_be_away():
                        if not settled:
                            await self._hooks.settle_mqtt(self._mqtt_url)
                            settled = True
                        for hook in await self._due():
                            if hook.id not in self._busy:
                                self._busy.add(hook.id)
                                group.create_task(self._work_for(hook))
                    await asyncio.sleep(LOOK_S)
        finally:
            self._publisher.close()
            await self._client.aclose()

    async def _work_for(self, hook: Hook) -> None:
        try:
            with _database_may_be_away():
                await self._turn(hook)
        finally:
            self._busy.discard(hook.id)

    async def _due(self) -> Sequence[Hook]:
        """Receivers for whom there is something, and whom this copy may tell it."""
        waits = select(FleetEvent.id).where(FleetEvent.id > Hook.sent).exists()
        now = self._store.now()
        due = or_(Hook.due_at <= now, Hook.due_at > now + LONGEST_PAUSE_S + SKEW_S)
        asked = select(Hook).where(Hook.url != "", due, waits)
        async with self._store.read() as session:
            return (await session.scalars(asked)).all()

    async def _turn(self, hook: Hook) -> None:
        """Events in order, until one is not taken."""
        if not await self._put_down(hook, hook.sent, due_at=self._store.now() + HELD_S):
            return  # another copy has it
        async with self._store.read() as session:
            asked = select(FleetEvent).where(FleetEvent.id > hook.sent).order_by(FleetEvent.id).limit(MOST)
            events = (await session.scalars(asked)).all()
        for event in events:
            try:
                if not hook.kinds or event.kind in hook.kinds.split(","):
                    await self._deliver(hook, Notice.of(event))
            except NotDelivered as error:
                failures = hook.failures + 1
                pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20))
                log.warning("a notice waits", hook=hook.id, error=str(error), again_in_s=pause)
                said = {"failures": failures, "problem": str(error)[:500]}
                await self._put_down(hook, hook.sent, due_at=self._store.now() + pause, **said)
                return
            if not await self._put_down(hook, event.id, due_at=self._store.now() + HELD_S):
                return  # it was removed, or this took so long that another copy went on
        await self._put_down(hook, hook.sent, due_at=self._store.now(), failures=0, problem="")

    async def _deliver(self, hook: Hook, notice: Notice) -> None:
        if hook.id == MQTT:
            await self._publisher.publish(notice)
        else:
            await webhook.post(self._client, hook.url, hook.secret, notice)

    async def _put_down(self, hook: Hook, sent: int, due_at: float, **more: object) -> bool:
        """Whether the receiver was as this copy knows it; then it is so now."""
        mine = update(Hook).where(Hook.id == hook.id, Hook.due_at == hook.due_at, Hook.sent == hook.sent)
        async with self._store.write() as session:
            done = await session.execute(mine.values(sent=sent, due_at=due_at, **more))
        hook.sent, hook.due_at = sent, due_at
        return isinstance(done, CursorResult) and done.rowcount == 1
