"""Telemetry: nodes bring it, operators and Prometheus ask for it."""

from __future__ import annotations

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import PlainTextResponse

from cloud_sync.controller.access import Access, NodeHolder, Operator, Viewer
from cloud_sync.controller.core import Controller
from cloud_sync.controller.telemetry.bodies import read_batch
from cloud_sync.controller.telemetry.history import Page, Told
from cloud_sync.controller.telemetry.series import Lines, NameRow, Nodes, Wanted
from cloud_sync.messages import API, Received, Telemetry

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def node_routes(controller: Controller) -> APIRouter:
    router = APIRouter(prefix=API, tags=["Nodes themselves"])
    counts = controller.telemetry.counts

    @router.post("/node/telemetry", openapi_extra={"requestBody": _body(Telemetry)})
    async def telemetry(holder: NodeHolder, request: Request) -> Received:
        """A batch, plain or with `content-encoding: zstd`. What is here already is passed over."""
        batch, size = await read_batch(request, controller.settings.telemetry_max_bytes)
        received = await controller.telemetry.ingest.take(holder, batch)
        counts.batches.inc()
        counts.bytes.inc(size)
        return received

    return router


def operator_routes(controller: Controller) -> APIRouter:
    router = APIRouter(prefix=API, tags=["Telemetry"])
    history, series = controller.telemetry.history, controller.telemetry.series

    @router.get("/events")
    async def events(actor: Viewer, page: Annotated[Page, Query()]) -> list[Told]:
        """What happened: as the controller saw it, or as nodes told it."""
        return await history.events(page)

    @router.get("/logs")
    async def logs(actor: Viewer, page: Annotated[Page, Query()]) -> list[Told]:
        """Lines of nodes' logs."""
        return await history.excerpts("logs", page)

    @router.get("/samples")
    async def samples(actor: Operator, page: Annotated[Page, Query()]) -> list[Told]:
        """Samples of prompts, from nodes that are told to take some."""
        return await history.excerpts("samples", page)

    @router.get("/series")
    async def names(
        actor: Viewer,
        selector: Nodes = "all",
        after: Annotated[str, Query(max_length=1100, pattern=r"^[^\x00]*$")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> list[NameRow]:
        """Which series there are, by name, from the one after `after` on."""
        return await series.names(selector, after, limit)

    @router.get("/series/query")
    async def query(actor: Viewer, wanted: Annotated[Wanted, Query()]) -> Lines:
        """Series over time: one measure over nodes, in steps."""
        return await series.lines(wanted)

    return router


def metrics_routes(controller: Controller) -> APIRouter:
    router = APIRouter(tags=["Controller"])
    token = controller.settings.metrics_token

    async def may_scrape(request: Request) -> None:
        """With a token of its own, which is a setting, or as a viewer."""
        given = request.headers.get("authorization", "")
        if token is not None:
            wanted = f"Bearer {token.get_secret_value()}"
            if hmac.compare_digest(given.encode(), wanted.encode()):
                return
        access: Access = request.app.state.access
        await access.operator(request, "viewer")

    @router.get("/metrics", response_class=PlainTextResponse, dependencies=[Depends(may_scrape)])
    async def metrics() -> PlainTextResponse:
        """The fleet and this copy of the controller, for Prometheus."""
        return PlainTextResponse(await controller.telemetry.exposition.render(), media_type=PROMETHEUS)

    return router


def _body(model: type[Telemetry]) -> dict[str, Any]:
    """What a body looks like that is read by hand: who asks is known before it is."""
    schema = model.model_json_schema(ref_template="{model}")
    schema["properties"]["streams"]["additionalProperties"]["items"] = schema.pop("$defs")["Row"]
    return {"required": True, "content": {"application/json": {"schema": schema}}}
