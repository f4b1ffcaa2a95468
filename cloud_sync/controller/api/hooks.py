"""`/api/v1/hooks`: who is told of the fleet's events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field, StringConstraints

from cloud_sync.controller.access import Admin, Viewer
from cloud_sync.controller.answers import AnsweredOnce
from cloud_sync.controller.core import Controller
from cloud_sync.controller.notices.hooks import HookRow, MadeHook
from cloud_sync.messages import API

Kind = Annotated[str, StringConstraints(pattern=r"^[a-z_.]{1,64}$")]
HookId = Annotated[str, Path(pattern=r"^[0-9a-z]{1,16}$")]


class NewHook(BaseModel):
    url: Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]
    kinds: Annotated[list[Kind], Field(max_length=50)] = []
    """Of events; none: all."""
    secret: Annotated[str, Field(max_length=200)] | None = None
    """`whsec_...`; made if it is left out."""


def routes(controller: Controller) -> APIRouter:
    router = APIRouter(prefix=API, tags=["Notices"], route_class=AnsweredOnce)

    @router.post("/hooks", status_code=201)
    async def add(body: NewHook, actor: Admin) -> MadeHook:
        """Tell an HTTP address of what happens from now on. Its secret is shown once."""
        return await controller.hooks.add(actor, body.url, body.kinds, body.secret)

    @router.get("/hooks")
    async def hooks(actor: Viewer) -> list[HookRow]:
        """Who is told, and how far each is behind."""
        return await controller.hooks.all()

    @router.delete("/hooks/{id}", status_code=204)
    async def remove(id: HookId, actor: Admin) -> None:
        """Tell it no longer."""
        await controller.hooks.remove(actor, id)

    return router
