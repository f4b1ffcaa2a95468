"""What operators see and change: nodes, and layers of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select

from cloud_sync.controller import desired
from cloud_sync.controller.audit import Actor, record
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.errors import Invalid
from cloud_sync.controller.history import CHANGED, undoing
from cloud_sync.controller.joining import named, revoke_certificates
from cloud_sync.controller.selectors import Selector
from cloud_sync.controller.skew import Skew, skew
from cloud_sync.controller.store import Store
from cloud_sync.controller.store.events import record_event
from cloud_sync.controller.store.tables import Audit, Layer, Node
from cloud_sync.controller.store.tables import Fleet as FleetRow
from cloud_sync.settings import BadSettings, checked


class NodeRow(BaseModel):
    name: str
    state: str
    """active, lost (its last heartbeats did not come), cloned, revoked."""
    labels: dict[str, str]
    address: str
    seen_at: float | None
    """Wall time of the last heartbeat, in seconds."""
    epoch: int
    generation: int
    observed_generation: int
    backlog: int
    """Rows of telemetry that wait on the node, as it reported."""
    clock_skew_s: float | None
    """How far its clock is ahead of this one's; null: it sent no telemetry yet."""
    reported: dict[str, Any]
    skew: Skew
    """How its agent's release stands to the controller's."""


class AuditRow(BaseModel):
    id: int
    at: float
    actor: str
    address: str
    action: str
    target: str
    details: dict[str, Any]


class Fleet:
    def __init__(self, store: Store, settings: ControllerSettings) -> None:
        self._store, self._settings = store, settings

    async def nodes(self, after: str, limit: int) -> list[NodeRow]:
        async with self._store.read() as session:
            fleet = await session.get_one(FleetRow, 1)
            asked = (
                select(Node).where(Node.name > after, Node.state != "gone").order_by(Node.name).limit(limit)
            )
            return [self._row(node, fleet.epoch) for node in await session.scalars(asked)]

    async def label(self, actor: Actor, name: str, changes: Mapping[str, str | None]) -> int:
        """How many documents changed: 1 or none. NotFound."""
        async with self._store.write() as session:
            node = await named(session, name)
            labels = {**node.labels, **changes}
            node.labels = {key: value for key, value in labels.items() if value is not None}
            record(session, self._store.now(), actor, "node.labelled", name, changes=dict(changes))
            return await desired.settle(session, [node])

    async def revoke(self, actor: Actor, name: str) -> None:
        """NotFound."""
        async with self._store.write() as session:
            node, now = await named(session, name), self._store.now()
            node.state = "revoked"
            await revoke_certificates(session, node.id, now)
            await desired.stir(session, node)
            record(session, now, actor, "node.revoked", name)
            record_event(session, now, name, "node.revoked", {"by": actor.name})

    async def audit(self, before: int, limit: int) -> list[AuditRow]:
        async with self._store.read() as session:
            asked = select(Audit).where(Audit.id < before).order_by(Audit.id.desc()).limit(limit)
            return [
                AuditRow.model_validate(row, from_attributes=True) for row in await session.scalars(asked)
            ]

    async def layers(self) -> list[tuple[Selector, dict[str, Any]]]:
        async with self._store.read() as session:
            return await desired.layers(session)

    async def change(self, actor: Actor, text: str, changes: dict[str, Any]) -> int:
        """Merge `changes` into a layer, as JSON Merge Patch does. How many documents changed. Invalid."""
        selector = Selector.parse(text)
        async with self._store.write() as session:
            row = await session.get(Layer, str(selector), with_for_update=True)
            former = row.settings if row else {}
            try:
                settings = checked(_patched(former, changes))
            except BadSettings as error:
                raise Invalid("bad_settings", str(error)) from None
            changed = await desired.put(session, selector, settings)
            told = {"changes": changes, "undo": undoing(former, changes)}
            record(session, self._store.now(), actor, CHANGED, str(selector), **told)
        return changed

    def _row(self, node: Node, epoch: int) -> NodeRow:
        return NodeRow(
            name=node.name,
            state=node.state,
            labels=node.labels,
            address=node.address,
            seen_at=node.seen_at,
            epoch=epoch,
            generation=node.generation,
            observed_generation=node.observed_generation,
            backlog=node.backlog,
            clock_skew_s=node.clock_skew_s,
            reported=node.reported,
            skew=skew(str(node.reported.get("version", ""))),
        )


def _patched(below: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """RFC 7396."""
    made = dict(below)
    for name, value in changes.items():
        if value is None:
            made.pop(name, None)
        elif isinstance(value, dict):
            under = made.get(name)
            made[name] = _patched(under if isinstance(under, dict) else {}, value)
        else:
            made[name] = value
    return made
