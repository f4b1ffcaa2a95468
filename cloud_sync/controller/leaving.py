"""How a node leaves the fleet for good. What it told stays until it is too old."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller import desired
from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.joining import named, revoke_certificates, standing
from cloud_sync.controller.selectors import Selector
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.events import record_event
from cloud_sync.controller.store.tables import Layer, Node
from cloud_sync.identity import Holder


class Leaving:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def remove(self, actor: Actor, name: str) -> None:
        """NotFound."""
        async with self._store.write() as session:
            await self._go(session, await named(session, name), actor, "node.removed")

    async def leave(self, holder: Holder, address: str) -> None:
        """By the node's own wish. Refused."""
        async with self._store.write() as session:
            node = await standing(session, holder, for_change=True)
            await self._go(session, node, Actor(f"node:{node.name}", address), "node.left")

    async def _go(self, session: AsyncSession, node: Node, actor: Actor, what: str) -> None:
        """Settings of its own go with it: the next of that name is another machine."""
        name, now = node.name, self._store.now()
        await revoke_certificates(session, node.id, now)
        await session.execute(delete(Layer).where(Layer.selector == str(Selector(node=name))))
        await desired.stir(session, node)
        node.name, node.state = f"{name}~{node.id}", "gone"
        record(session, now, actor, what, name)
        record_event(session, now, name, what, {"by": actor.name})
