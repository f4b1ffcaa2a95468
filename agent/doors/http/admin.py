"""`/api/...`: for the command line, by the unix socket or with an administrator's key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response, StreamingResponse

from agent import listing
from agent.canaries import Trial
from agent.doors.http.errors import error_object, json_response
from agent.doors.http.routes import json_body
from agent.doors.http.schema import documented
from agent.doors.node_face import Node
from agent.doors.openai.bodies import PullBody, TrialBody
from agent.doors.openai.requests import bad_request
from agent.doors.openai.strict_json import load_object
from agent.errors import AgentError, BadRequest, ModelNotFound, Unavailable
from models.errors import ModelError, NotOnShelf

B = TypeVar("B", PullBody, TrialBody)


def admin_routes(node: Node) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["Administration"])

    @router.get("/models", **documented(None, "What is on the shelf."))
    async def shelf(request: Request) -> Response:
        """List the Versions on the shelf."""
        request.state.caller.needs_admin()
        live = [one for model in node.serving.offered() for one in node.serving.live(model.name)]
        loaded = {(one.name, one.version): one.info for one in live if one.info}
        parts = {(row["name"], row["version"]): row for row in node.serving.status()["models"]}
        return json_response(await asyncio.to_thread(listing.rows, node.settings, node.shelf, loaded, parts))

    @router.post("/pull", **documented(PullBody, "A JSON object a line.", "application/x-ndjson"))
    async def pull(request: Request) -> Response:
        """Put a Version on the shelf; rows of progress come as it goes. To hang up is to stop it."""
        request.state.caller.needs_admin()
        body = await _read(request, PullBody)
        told = node.pull(body.source, body.name, quantize=body.quantize, trial=_trial(body.trial))
        return StreamingResponse(_lines(told), media_type="application/x-ndjson")

    @router.delete("/models/{name}", **documented(None, "What was removed."))
    async def remove(request: Request, name: str) -> Response:
        """Take `model` or `model:version` off the shelf. What is served stays: 409."""
        request.state.caller.needs_admin()
        with _translated():
            gone = await node.remove(name)
        return json_response([{"model": one.model, "version": one.version, "size": one.size} for one in gone])

    _add_trials(router, node)
    return router


def _add_trials(router: APIRouter, node: Node) -> None:
    @router.post("/models/{name}/canary", **documented(TrialBody, "It is tried."))
    async def canary(request: Request, name: str) -> Response:
        """Try `model:version`, which is on the shelf, on a part of the model's traffic, or as its shadow."""
        request.state.caller.needs_admin()
        body = await _read(request, TrialBody)
        with _translated():
            await node.begin_trial(name, Trial(body.weight, body.shadow))
        return json_response({"canary": name})

    @router.post("/models/{name}/promote", **documented(None, "What serves now."))
    async def promote(request: Request, name: str) -> Response:
        """Let the canary of `model` (or `model:version`) serve in place of the stable version."""
        request.state.caller.needs_admin()
        with _translated():
            return json_response({"promoted": await node.promote(name)})

    @router.post("/models/{name}/abort", **documented(None, "What is tried no longer."))
    async def abort(request: Request, name: str) -> Response:
        """Take the canaries of `model`, or the one of `model:version`, away."""
        request.state.caller.needs_admin()
        with _translated():
            return json_response({"aborted": await node.abort(name)})


def _trial(body: TrialBody | None) -> Trial | None:
    return Trial(body.weight, body.shadow) if body else None


async def _read(request: Request, kind: type[B]) -> B:
    values = load_object(await json_body(request))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise bad_request(error) from None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except NotOnShelf as error:
        raise ModelNotFound(str(error), param="name") from None
    except (ModelError, OSError) as error:
        raise Unavailable(str(error), retry_after=10) from None


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
