"""Hints: "your Desired document has changed", to the nodes that listen to this copy of the controller.

A hint may be lost; nodes poll behind it. Whoever changes documents calls `changed`; on PostgreSQL that wakes
every copy, and each looks which of its own listeners it concerns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import asyncpg
import structlog
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from cloud_sync.controller.joining import refusal
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.tables import Certificate, Fleet, Node

CHANNEL = "autoglm_desired"
RETRY_S = 1.0
log = structlog.get_logger()


class Listener:
    """One node's open stream. `over`: it is to end."""

    def __init__(self, serial: str) -> None:
        self.serial = serial  # of the certificate that it came with
        self._news = asyncio.Event()
        self.generation = 0
        self.over = False

    def tell(self, generation: int) -> None:
        self.generation = max(self.generation, generation)
        self._news.set()

    def end(self) -> None:
        self.over = True
        self._news.set()

    async def next(self, within_s: float) -> int | None:
        """The newest generation, once there is one to tell; None: not within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()
            self._news.clear()
            return self.generation
        return None


class Hints:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: dict[str, set[Listener]] = {}
        self._news = asyncio.Event()
        self._seen = 0  # revision
        self.epoch = 0  # that was told
        self.closed = False

    @contextlib.contextmanager
    def listening(self, node: str, serial: str) -> Iterator[Listener]:
        one = Listener(serial)
        self._listeners.setdefault(node, set()).add(one)
        try:
            yield one
        finally:
            self._listeners[node].discard(one)
            if not self._listeners[node]:
                del self._listeners[node]

    def close(self) -> None:
        """This copy goes: its streams end, and the nodes look for another."""
        self.closed = True
        for listeners in self._listeners.values():
            for one in listeners:
                one.end()

    async def changed(self) -> None:
        """After a commit that changed documents."""
        if self._store.postgres:
            async with self._store.write() as session:
                await session.execute(text(f"NOTIFY {CHANNEL}"))
        else:
            self._news.set()

    async def run(self) -> None:
        async with self._store.read() as session:
            fleet = await session.get_one(Fleet, 1)
            self._seen, self.epoch = fleet.revision, fleet.epoch
        async with asyncio.TaskGroup() as group:
            if self._store.postgres:
                group.create_task(self._hear())
            while True:
                await self._news.wait()
                self._news.clear()
                try:
                    await self._tell()
                except (SQLAlchemyError, OSError) as error:
                    log.warning("hints wait for the database", error=str(error), again_in_s=RETRY_S)
                    self._news.set()
                    await asyncio.sleep(RETRY_S)

    async def _tell(self) -> None:
        """Those whose document changed; all, where another epoch has begun: few statements for many."""
        async with self._store.read() as session:
            epoch = (await session.get_one(Fleet, 1)).epoch
            changed = Node.revision > (self._seen if epoch == self.epoch else -1)
            found = await session.execute(
                select(Node.id, Node.generation, Node.revision, Node.state).where(changed)
            )
            nodes = found.all()
            asked = select(Certificate.serial).join(Node, Node.id == Certificate.node)
            revoked = set(await session.scalars(asked.where(changed, Certificate.revoked_at.is_not(None))))
        self.epoch = epoch
        for id, generation, revision, state in nodes:
            self._seen = max(self._seen, revision)
            for one in self._listeners.get(id, ()):
                if refusal(state, 0.0 if one.serial in revoked else None):
                    one.end()
                else:
                    one.tell(generation)

    async def _hear(self) -> None:
        """Notifications of all copies; after a gap, look what was missed."""
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("no notifications from PostgreSQL", error=str(error), again_in_s=RETRY_S)
            await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        """Until the connection is gone."""
        gone = asyncio.Event()
        url = self._store.engine.url.set(drivername="postgresql")
        connection = await asyncpg.connect(url.render_as_string(hide_password=False))
        try:
            connection.add_termination_listener(lambda _: gone.set())
            await connection.add_listener(CHANNEL, lambda *_: self._news.set())
            self._news.set()
            await gone.wait()
        finally:
            await connection.close(timeout=1)
