"""`/api/v1/...` for nodes: to join, to renew, to report, to fetch, to listen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from cloud_sync.controller.access import NodeHolder, address
from cloud_sync.controller.core import Controller
from cloud_sync.identity import Holder
from cloud_sync.messages import API, Answer, Desired, Join, Joined, Renew, Renewed, Report

HINT_S = 60.0  # how often a stream without news shows that it lives


def routes(controller: Controller) -> APIRouter:
    router = APIRouter(prefix=API, tags=["Nodes themselves"])

    @router.get("/ca", response_class=PlainTextResponse)
    async def ca() -> str:
        """The CA's certificate (PEM), for machines that join: the token says what its digest must be."""
        return controller.keys.authority.certificate.decode()

    @router.post("/join", status_code=201)
    async def join(asked: Join, request: Request) -> Joined:
        """Become a node, with a token. The same key may ask again, and is the same node."""
        joined = await controller.joining.join(asked, address(request))
        await controller.hints.changed()
        return joined

    @router.post("/renew")
    async def renew(asked: Renew, request: Request) -> Renewed:
        """A certificate for a new key; the old one may be over."""
        return await controller.joining.renew(asked, address(request))

    @router.post("/node/leave", status_code=204)
    async def leave(holder: NodeHolder, request: Request) -> None:
        """Be a node no longer."""
        await controller.leaving.leave(holder, address(request))
        await controller.hints.changed()

    @router.post("/node/report")
    async def report(report: Report, holder: NodeHolder, request: Request) -> Answer:
        """The Reported document, and the heartbeat."""
        answer = await controller.reports.take(holder, report, address(request))
        if answer.epoch != controller.hints.epoch:
            await controller.hints.changed()
        return answer

    @router.get("/node/desired", response_model=Desired, responses={304: {"description": "No other."}})
    async def desired(holder: NodeHolder, if_none_match: Annotated[str, Header()] = "") -> Response:
        """The Desired document, with an ETag."""
        found = await controller.reports.desired(holder)
        headers = {"etag": found.etag}
        if if_none_match == found.etag:
            return Response(status_code=304, headers=headers)
        return Response(found.model_dump_json(), headers=headers, media_type="application/json")

    @router.get("/node/hints", response_class=StreamingResponse)
    async def hints(holder: NodeHolder, request: Request) -> StreamingResponse:
        """Server-sent events: `desired`, with the generation that is there, and as id epoch.generation."""
        stream = await controller.reports.opened(holder, address(request))
        return StreamingResponse(_stream(controller, holder, stream), media_type="text/event-stream")

    return router


async def _stream(controller: Controller, holder: Holder, name: str) -> AsyncIterator[bytes]:
    """Until the identity counts no longer, or this copy goes."""
    with controller.hints.listening(holder.node, holder.serial) as listener:
        try:
            yield b": listening\n\n"
            while not listener.over:
                generation = await listener.next(HINT_S)
                if generation is None:
                    yield b":\n\n"
                elif not listener.over:
                    epoch = controller.hints.epoch
                    yield b"event: desired\nid: %d.%d\ndata: %d\n\n" % (epoch, generation, generation)
        finally:
            if not listener.over and not controller.hints.closed:
                controller.watch.dropped(holder, name)
