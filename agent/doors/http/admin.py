"""`/api/...`: for the command line, by the unix socket or with an administrator's key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response, StreamingResponse

from agent.doors.http.errors import error_object, json_response
from agent.doors.http.routes import json_body
from agent.doors.http.schema import documented
from agent.doors.node_face import Node
from agent.doors.openai.bodies import PullBody
from agent.doors.openai.requests import bad_request
from agent.doors.openai.strict_json import load_object
from agent.errors import AgentError, BadRequest, ModelNotFound
from agent.listing import rows
from models.errors import ModelError, NotOnShelf


def admin_routes(node: Node) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["Administration"])

    @router.get("/models", **documented(None, "What is on the shelf."))
    async def shelf(request: Request) -> Response:
        """List the Versions on the shelf."""
        request.state.caller.needs_admin()
        loaded = {(one.name, one.version): one.info for one in node.serving.offered() if one.info}
        return json_response(await asyncio.to_thread(rows, node.settings, node.shelf, loaded))

    @router.post("/pull", **documented(PullBody, "A JSON object a line.", "application/x-ndjson"))
    async def pull(request: Request) -> Response:
        """Put a Version on the shelf; rows of progress come as it goes. To hang up is to stop it."""
        request.state.caller.needs_admin()
        values = load_object(await json_body(request))
        try:
            body = PullBody.model_validate(values)
        except ValidationError as error:
            raise bad_request(error) from None
        told = node.pull(body.source, body.name, body.quantize)
        return StreamingResponse(_lines(told), media_type="application/x-ndjson")

    @router.delete("/models/{name}", **documented(None, "What was removed."))
    async def remove(request: Request, name: str) -> Response:
        """Take `model` or `model:version` off the shelf. What is served stays: 409."""
        request.state.caller.needs_admin()
        try:
            gone = await node.remove(name)
        except NotOnShelf as error:
            raise ModelNotFound(str(error), param="name") from None
        return json_response([{"model": one.model, "version": one.version, "size": one.size} for one in gone])

    return router


async def _lines(told: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for row in told:
            yield _line(row)
    except AgentError as error:
        yield _line(error_object(error))
    except ModelError as error:
        yield _line(error_object(BadRequest(str(error), param="source")))


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
