"""Events, log lines and samples, as they are asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Select, select

from cloud_sync.controller.store import Store
from cloud_sync.controller.store.tables import Node
from cloud_sync.controller.store.telemetry_tables import Excerpt, FleetEvent
from cloud_sync.messages import NodeName

Seconds = Annotated[float, Field(ge=-1e12, le=1e12)]
Id = Annotated[int, Field(ge=0, le=2**62)]
Word = Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")]


class Page(BaseModel):
    """Which rows are wanted: the newest first, or with `after` those that came after it, the oldest first."""

    model_config = ConfigDict(extra="forbid")

    node: NodeName | None = None
    kind: Annotated[list[Word], Field(max_length=20)] = []
    """Of events their names, of logs the levels; more than one: any of them."""
    from_: Annotated[Seconds | None, Field(alias="from")] = None
    """Wall time in seconds: not before it happened."""
    to: Seconds | None = None
    after: Id | None = None
    """The id of the last row that is known: who asks on with it misses none."""
    before: Id | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class Told(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    at: float
    """When it happened, by the controller's clock, as far as that can be told."""
    received_at: float
    told_at: float | None
    """When it happened by the node's clock; null: the controller saw it itself."""
    node: str | None
    kind: str
    body: dict[str, Any]


class History:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def events(self, page: Page) -> list[Told]:
        rows = select(*(getattr(FleetEvent, name) for name in Told.model_fields))
        if page.node is not None:
            rows = rows.where(FleetEvent.node == page.node)
        return await self._read(_narrowed(rows, FleetEvent, page))

    async def excerpts(self, stream: Literal["logs", "samples"], page: Page) -> list[Told]:
        columns = (Node.name if name == "node" else getattr(Excerpt, name) for name in Told.model_fields)
        rows = select(*columns).join(Node, Node.id == Excerpt.node).where(Excerpt.stream == stream)
        if page.node is not None:
            rows = rows.where(Node.name == page.node)
        return await self._read(_narrowed(rows, Excerpt, page))

    async def _read(self, rows: Select[Any]) -> list[Told]:
        async with self._store.read() as session:
            found = (await session.execute(rows)).all()
        return [Told.model_validate(dict(zip(Told.model_fields, one, strict=True))) for one in found]


def _narrowed(rows: Select[Any], table: type[FleetEvent] | type[Excerpt], page: Page) -> Select[Any]:
    wanted: list[ColumnElement[bool]] = []
    if page.kind:
        wanted.append(table.kind.in_(page.kind))
    if page.from_ is not None:
        wanted.append(table.at >= page.from_)
    if page.to is not None:
        wanted.append(table.at <= page.to)
    if page.after is not None:
        wanted.append(table.id > page.after)
    if page.before is not None:
        wanted.append(table.id < page.before)
    order = table.id.asc() if page.after is not None else table.id.desc()
    return rows.where(*wanted).order_by(order).limit(page.limit)
