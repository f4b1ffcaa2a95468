"""`/api/v1/...` for operators: join tokens, nodes, the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from cloud_sync.controller.access import Admin, Operator, Viewer
from cloud_sync.controller.answers import AnsweredOnce
from cloud_sync.controller.api.config import Changed
from cloud_sync.controller.core import Controller
from cloud_sync.controller.fleet import AuditRow, NodeRow
from cloud_sync.messages import API, LabelKey, Labels, LabelValue, NodeName

HOUR = 3600.0


class NewToken(BaseModel):
    life_s: Annotated[float, Field(gt=0, le=90 * 24 * HOUR)] = HOUR
    labels: Labels = {}
    replaces: NodeName | None = None


class MadeToken(BaseModel):
    token: str


class NewLabels(BaseModel):
    labels: Annotated[dict[LabelKey, LabelValue | None], Field(max_length=32)]
    """null takes one away."""


def routes(controller: Controller) -> APIRouter:
    router = APIRouter(prefix=API, tags=["Operators"], route_class=AnsweredOnce)

    @router.post("/tokens", status_code=201)
    async def new_token(body: NewToken, actor: Operator) -> MadeToken:
        """A join token, for one machine. It is shown once."""
        return MadeToken(
            token=await controller.joining.new_token(actor, body.life_s, body.labels, body.replaces)
        )

    @router.get("/nodes")
    async def nodes(
        actor: Viewer,
        after: Annotated[str, Query(max_length=64)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> list[NodeRow]:
        """Nodes by name, from the one after `after` on."""
        return await controller.fleet.nodes(after, limit)

    @router.patch("/nodes/{name}/labels")
    async def label(name: NodeName, body: NewLabels, actor: Operator) -> Changed:
        """Change labels of a node, and with them which layers it has."""
        changed = await controller.fleet.label(actor, name, body.labels)
        await controller.hints.changed()
        return Changed(nodes=changed)

    @router.post("/nodes/{name}/revoke", status_code=204)
    async def revoke(name: NodeName, actor: Admin) -> None:
        """Let a node's identity count no longer, from now on."""
        await controller.fleet.revoke(actor, name)
        await controller.hints.changed()

    @router.delete("/nodes/{name}", status_code=204)
    async def remove(name: NodeName, actor: Admin) -> None:
        """Take a node out of the fleet for good: its identity counts no longer, and its name is free."""
        await controller.leaving.remove(actor, name)
        await controller.hints.changed()

    @router.get("/audit")
    async def audit(
        actor: Viewer,
        before: Annotated[int, Query(ge=0, le=2**62)] = 2**62,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[AuditRow]:
        """Who changed what, the newest first, older than the row `before`."""
        return await controller.fleet.audit(before, limit)

    return router
