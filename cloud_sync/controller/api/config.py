"""`/api/v1/...` for operators: the layers of settings, and what they make of each node's document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from cloud_sync.controller.access import Operator, Viewer
from cloud_sync.controller.answers import AnsweredOnce
from cloud_sync.controller.core import Controller
from cloud_sync.controller.history import Change, history
from cloud_sync.controller.selectors import Selector
from cloud_sync.controller.told import Told, told
from cloud_sync.messages import API, NodeName


class LayerBody(BaseModel):
    selector: Annotated[str, Field(max_length=2000)] = "all"
    """`all`, `key=value,...`, or `node:NAME`."""
    settings: dict[str, Any]


class Changed(BaseModel):
    nodes: int
    """Whose Desired documents changed."""


def routes(controller: Controller) -> APIRouter:
    router = APIRouter(prefix=API, tags=["Settings"], route_class=AnsweredOnce)

    @router.get("/config")
    async def config(actor: Viewer) -> list[LayerBody]:
        """The layers of settings, the lowest first."""
        found = await controller.fleet.layers()
        return [LayerBody(selector=str(selector), settings=settings) for selector, settings in found]

    @router.get("/config/history")
    async def changes(
        actor: Viewer,
        selector: Annotated[str | None, Query(max_length=2000)] = None,
        before: Annotated[int, Query(ge=0)] = 2**62,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[Change]:
        """What was changed of the layers, the newest first, older than the change `before`."""
        wanted = None if selector is None else str(Selector.parse(selector))
        return await history(controller.store, wanted, before, limit)

    @router.get("/nodes/{name}/config")
    async def config_of(name: NodeName, actor: Viewer) -> Told:
        """What one node is told, and which layer each setting comes from."""
        return await told(controller.store, name)

    @router.patch("/config")
    async def change(body: LayerBody, actor: Operator) -> Changed:
        """Change settings of one layer: those that are named; null takes one away."""
        changed = await controller.fleet.change(actor, body.selector, body.settings)
        await controller.hints.changed()
        return Changed(nodes=changed)

    return router
