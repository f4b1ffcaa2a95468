"""`/v2/...`: the Open Inference Protocol, and Triton's repository control. Errors are `{"error": "..."}`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from agent.doors.http.errors import NotSupported, json_response
from agent.doors.http.schema import documented
from agent.doors.inference_protocol import models
from agent.doors.inference_protocol.config import config
from agent.doors.node_face import Node
from agent.doors.openai.strict_json import load_object
from agent.errors import BadRequest, Unavailable

NOT_HERE = {
    "shared memory": ("/systemsharedmemory/{rest:path}", "/cudasharedmemory/{rest:path}"),
    "tracing": ("/trace/setting", "/models/{model}/trace/setting"),
    "log settings by HTTP (AUTOGLM_LOG_LEVEL is one)": ("/logging",),
}
"""Of Triton's routes, by what they are for."""


def inference_routes(node: Node) -> APIRouter:
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    _add_server_routes(router, node)
    _add_statistics_routes(router, node)  # before the models: none of them is called "stats"
    _add_model_routes(router, node)
    _add_repository_routes(router, node)
    _refuse_the_rest_of_triton(router)
    return router


def _add_server_routes(router: APIRouter, node: Node) -> None:
    @router.get("", **documented(None, "The server."))
    async def server() -> Response:
        """Name the server and what it can do."""
        return json_response(models.server())

    @router.get("/health/live", **documented(None, "It does."))
    async def live() -> Response:
        """Whether the server lives."""
        return Response()

    @router.get("/health/ready", **documented(None, "It is."))
    async def ready() -> Response:
        """Whether the default model is ready."""
        return _said(*node.serving.ready())


def _add_statistics_routes(router: APIRouter, node: Node) -> None:
    @router.get("/models/stats", **documented(None, "The statistics."))
    @router.get("/models/{model}/stats", **documented(None, "The statistics."))
    @router.get("/models/{model}/versions/{version}/stats", include_in_schema=False)
    async def stats(request: Request, model: str = "", version: str = "") -> Response:
        """Count what the models of tensors have done, or one of them."""
        rows = models.statistics(node, request.state.caller, model, version)
        return json_response({"model_stats": rows})


def _add_model_routes(router: APIRouter, node: Node) -> None:
    @router.get("/models/{model}", **documented(None, "The model."))
    @router.get("/models/{model}/versions/{version}", include_in_schema=False)
    async def metadata(request: Request, model: str, version: str = "") -> Response:
        """Describe a model."""
        return json_response(models.metadata(node, models.find(node, request.state.caller, model, version)))

    @router.get("/models/{model}/config", **documented(None, "The configuration."))
    @router.get("/models/{model}/versions/{version}/config", include_in_schema=False)
    async def configuration(request: Request, model: str, version: str = "") -> Response:
        """Show how a model is served, in the words of Triton's model configuration."""
        return json_response(config(models.find(node, request.state.caller, model, version), node.settings))

    @router.get("/models/{model}/ready", **documented(None, "It is."))
    @router.get("/models/{model}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(request: Request, model: str, version: str = "") -> Response:
        """Whether a model is loaded and answers."""
        one = models.find(node, request.state.caller, model, version)
        return _said(*node.serving.ready(f"{one.name}:{one.version}"))


def _add_repository_routes(router: APIRouter, node: Node) -> None:
    @router.post("/repository/index", **documented(None, "A list."))
    async def index(request: Request) -> Response:
        """List the models, loaded or not. `{"ready": true}`: only those that are."""
        only_ready = (await _body(request)).get("ready") is True
        return json_response(models.index(node, request.state.caller, only_ready=only_ready))

    @router.post("/repository/models/{model}/load", **documented(None, "It is loaded."))
    async def load(request: Request, model: str) -> Response:
        """Load a model, or its newest Version in place of the one that is loaded."""
        parameters = (await _body(request)).get("parameters", {})
        if not isinstance(parameters, dict):
            raise BadRequest("'parameters' must be an object")
        await models.load(node, request.state.caller, model, parameters)
        return Response()

    @router.post("/repository/models/{model}/unload", **documented(None, "It is unloaded."))
    async def unload(request: Request, model: str) -> Response:
        """Free a model's memory when its running answers have ended."""
        await _body(request)
        await models.unload(node, request.state.caller, model)
        return Response()


def _refuse_the_rest_of_triton(router: APIRouter) -> None:
    def add(path: str, what: str) -> None:
        @router.api_route(path, methods=["GET", "POST"], include_in_schema=False)
        async def refuse() -> Response:
            raise NotSupported(f"this node has no {what}")

    for what, paths in NOT_HERE.items():
        for path in paths:
            add(path, what)


async def _body(request: Request) -> dict[str, Any]:
    """Clients may leave it out, or send it without a Content-Type."""
    data = await request.body()
    return load_object(data) if data.strip() else {}


def _said(ready: bool, reason: str) -> Response:
    if ready:
        return Response()
    raise Unavailable(reason, retry_after=2)
