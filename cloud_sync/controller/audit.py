"""The audit log: every change is in the same transaction as its row here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.store.tables import Audit


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and from where: `operator:NAME`, `node:NAME`, `local:USER`."""

    name: str
    address: str
    role: str = ""


def record(session: AsyncSession, now: float, actor: Actor, action: str, target: str, **details: Any) -> None:
    session.add(
        Audit(at=now, actor=actor.name, address=actor.address, action=action, target=target, details=details)
    )
