"""Where nodes stand, as the database has it: many are read, locked and put down by a few statements."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Select, Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.store.tables import Certificate, Fleet, Node
from cloud_sync.messages import Report

_BESIDE = {"boot", "number", "observed_generation"}  # columns of their own
_TABLE = cast(Table, Node.__table__)  # not by the ORM, which costs more than the database
_C = _TABLE.c
_EPOCH = select(cast(Table, Fleet.__table__).c.epoch).scalar_subquery()
_ISSUED = cast(Table, Certificate.__table__).c
_SEEN = ("state", "seen_at", "due_at", "address", "stream")
_TOLD = (
    *_SEEN,
    "boot",
    "former_boot",
    "number",
    "former_number",
    "observed_generation",
    "reported",
    "backlog",
)


@dataclass(slots=True)
class Place:
    """One node's. The last fields say what is to be put down."""

    id: str
    name: str
    state: str
    generation: int
    heartbeat_s: float | None
    """As its document says."""
    seen_at: float | None
    due_at: float | None
    address: str
    stream: str
    boot: str
    former_boot: str
    number: int
    former_number: int
    reported: Report | None = None
    changed: bool = False


async def find(session: AsyncSession, nodes: Collection[str]) -> tuple[dict[str, Place], int]:
    """By id, locked until the transaction ends; and the fleet's epoch."""
    asked: Select[Any] = select(
        _EPOCH, _C.id, _C.name, _C.state, _C.generation, _C.desired["heartbeat_s"].as_float(),
        _C.seen_at, _C.due_at, _C.address, _C.stream,
        _C.boot, _C.former_boot, _C.number, _C.former_number,
    )  # fmt: skip
    asked = asked.where(_C.id.in_(nodes)).order_by(_C.id).with_for_update(of=_TABLE)
    rows = (await session.execute(asked)).all()
    return {row[1]: Place(*row[1:]) for row in rows}, rows[0][0] if rows else 0


async def certificates(session: AsyncSession, serials: Collection[str]) -> dict[str, float | None]:
    """When each of those that are known was revoked."""
    asked = select(_ISSUED.serial, _ISSUED.revoked_at).where(_ISSUED.serial.in_(serials))
    return {serial: revoked_at for serial, revoked_at in await session.execute(asked)}


async def put_down(session: AsyncSession, places: Iterable[Place]) -> None:
    changed = [one for one in places if one.changed]
    told = [_row(one, _TOLD) for one in changed if one.reported is not None]
    seen = [_row(one, _SEEN) for one in changed if one.reported is None]
    for columns, rows in ((_TOLD, told), (_SEEN, seen)):
        if rows:
            values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in columns}
            await session.execute(update(_TABLE).where(_TABLE.c.id == bindparam("key")).values(values), rows)


def _row(place: Place, columns: Iterable[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"key": place.id}
    for name in columns:
        row[f"new_{name}"] = getattr(place, name, None)
    if place.reported is not None:
        row["new_reported"] = place.reported.model_dump(mode="json", exclude=_BESIDE)
        row["new_backlog"] = sum(place.reported.backlog.values())
        row["new_observed_generation"] = place.reported.observed_generation
    return row
