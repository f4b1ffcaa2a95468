"""The Desired documents: layers of settings, merged for each node whenever one of them changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.selectors import Selector
from cloud_sync.controller.store.tables import Fleet, Layer, Node
from cloud_sync.settings import merged


async def layers(session: AsyncSession) -> list[tuple[Selector, dict[str, Any]]]:
    """The lowest first."""
    rows = (await session.scalars(select(Layer))).all()
    found = [(Selector.parse(row.selector), row.settings) for row in rows]
    return sorted(found, key=lambda one: one[0].rank)


async def put(session: AsyncSession, selector: Selector, settings: dict[str, Any]) -> int:
    """Make these the layer's settings; none: there is no such layer. How many nodes' documents changed."""
    row = await session.get(Layer, str(selector), with_for_update=True)
    if row is None and settings:
        session.add(Layer(selector=str(selector), settings=settings))
    elif row is not None and settings:
        row.settings = settings
    elif row is not None:
        await session.delete(row)
    await session.flush()
    before = await session.scalar(select(Fleet.revision)) or 0
    met = await _met(session, selector)
    await session.get_one(Fleet, 1, with_for_update=True)  # who joins from now on has the layer
    joined = await _met(session, selector, Node.revision > before)
    return await settle(session, {node.id: node for node in (*met, *joined)}.values())


async def stir(session: AsyncSession, node: Node) -> None:
    """Its streams of hints are looked at, and end where it may not listen any longer."""
    fleet = await session.get_one(Fleet, 1, with_for_update=True)
    fleet.revision += 1
    node.revision = fleet.revision


async def settle(session: AsyncSession, nodes: Iterable[Node]) -> int:
    """Merge anew for these nodes; a document that changed is the next generation. How many did."""
    fleet = await session.get_one(Fleet, 1, with_for_update=True)  # one merge at a time, over what is there
    below = await layers(session)
    changed = [node for node in nodes if _merge(node, below) or not node.generation]
    if changed:
        fleet.revision += 1
        for node in changed:
            node.generation = (node.generation or 0) + 1
            node.revision = fleet.revision
    return len(changed)


def _merge(node: Node, below: Sequence[tuple[Selector, dict[str, Any]]]) -> bool:
    made = merged([settings for selector, settings in below if selector.meets(node.name, node.labels)])
    changed = made != (node.desired or {})
    node.desired = made
    return changed


async def _met(session: AsyncSession, selector: Selector, *only: ColumnElement[bool]) -> list[Node]:
    asked = select(Node).where(Node.state != "gone", *only).order_by(Node.id).with_for_update()
    if selector.node is not None:
        asked = asked.where(Node.name == selector.node)
    found = (await session.scalars(asked)).all()
    return [node for node in found if selector.meets(node.name, node.labels)]
