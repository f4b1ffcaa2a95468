"""What was changed of the layers of settings, and how each change is undone. The audit log has it all."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from sqlalchemy import select

from cloud_sync.controller.store import Store
from cloud_sync.controller.store.tables import Audit

CHANGED = "config.changed"


class Change(BaseModel):
    id: int
    at: float
    actor: str
    selector: str
    changes: dict[str, Any]
    """As they were asked for: null took a setting away."""
    undo: dict[str, Any] | None
    """What would make these settings as they were before; null: an earlier release did not note it."""


async def history(store: Store, selector: str | None, before: int, limit: int) -> list[Change]:
    """The newest first, older than the one of id `before`; of one layer, or of all."""
    asked = select(Audit).where(Audit.action == CHANGED, Audit.id < before)
    if selector is not None:
        asked = asked.where(Audit.target == selector)
    async with store.read() as session:
        rows = (await session.scalars(asked.order_by(Audit.id.desc()).limit(limit))).all()
    return [
        Change(
            id=row.id,
            at=row.at,
            actor=row.actor,
            selector=row.target,
            changes=row.details["changes"],
            undo=row.details.get("undo"),
        )
        for row in rows
    ]


def undoing(former: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The changes, as JSON Merge Patch has them, that bring back what these take away."""
    return {
        name: undoing(below, value)
        if isinstance(value, dict) and isinstance(below := former.get(name), dict)
        else former.get(name)
        for name, value in changes.items()
    }
