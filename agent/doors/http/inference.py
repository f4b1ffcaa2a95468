"""`/v2/...`: the Open Inference Protocol, and Triton's repository control. Errors are `{"error": "..."}`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from agent import __version__
from agent.access import Caller
from agent.doors.http.errors import json_response
from agent.doors.http.schema import documented
from agent.doors.node_face import Node
from agent.doors.openai.strict_json import load_object
from agent.errors import ModelNotFound, Unavailable
from agent.offered import Offered
from models.errors import ModelError, NotOnShelf
from models.onnx import TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_repository", "model_repository(unload_dependents)")


def inference_routes(node: Node) -> APIRouter:
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    _add_server_routes(router, node)
    _add_model_routes(router, node)
    _add_repository_routes(router, node)
    return router


def _add_server_routes(router: APIRouter, node: Node) -> None:
    @router.get("", **documented(None, "The server."))
    async def server() -> Response:
        """Name the server and what it can do."""
        about = {"name": "open-autoglm-edge", "version": __version__, "extensions": list(EXTENSIONS)}
        return json_response(about)

    @router.get("/health/live", **documented(None, "It does."))
    async def live() -> Response:
        """Whether the server lives."""
        return Response()

    @router.get("/health/ready", **documented(None, "It is."))
    async def ready() -> Response:
        """Whether the default model is ready."""
        return _said(*node.serving.ready())


def _add_model_routes(router: APIRouter, node: Node) -> None:
    @router.get("/models/{model}", **documented(None, "The model."))
    @router.get("/models/{model}/versions/{version}", include_in_schema=False)
    async def metadata(request: Request, model: str, version: str = "") -> Response:
        """Describe a model."""
        one = _find(node, request.state.caller, model, version)
        about = {"name": one.name, "versions": [one.version], "platform": one.platform}
        return json_response(
            about | {"inputs": list(map(_spec, one.inputs)), "outputs": list(map(_spec, one.outputs))}
        )

    @router.get("/models/{model}/ready", **documented(None, "It is."))
    @router.get("/models/{model}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(request: Request, model: str, version: str = "") -> Response:
        """Whether a model is loaded and answers."""
        one = _find(node, request.state.caller, model, version)
        return _said(*node.serving.ready(one.name))


def _add_repository_routes(router: APIRouter, node: Node) -> None:
    @router.post("/repository/index", **documented(None, "A list."))
    async def index(request: Request) -> Response:
        """List the models, loaded or not. `{"ready": true}`: only those that are."""
        only_ready = (await _parameters(request)).get("ready") is True
        caller: Caller = request.state.caller
        rows = [_row(node, one) for one in node.serving.offered() if caller.may_use(one.name)]
        return json_response([row for row in rows if not only_ready or row["state"] == "READY"])

    @router.post("/repository/models/{model}/load", **documented(None, "It is loaded."))
    async def load(request: Request, model: str) -> Response:
        """Load a model, or its newest Version in place of the one that is loaded."""
        request.state.caller.needs_admin()
        await _parameters(request)
        try:
            await node.load(model)
        except NotOnShelf as error:
            raise ModelNotFound(str(error)) from None
        except (ModelError, OSError) as error:
            raise Unavailable(str(error), retry_after=10) from None
        return Response()

    @router.post("/repository/models/{model}/unload", **documented(None, "It is unloaded."))
    async def unload(request: Request, model: str) -> Response:
        """Free a model's memory when its running answers have ended."""
        request.state.caller.needs_admin()
        await _parameters(request)
        try:
            await node.unload(model)
        except NotOnShelf as error:
            raise ModelNotFound(str(error)) from None
        return Response()


async def _parameters(request: Request) -> dict[str, Any]:
    """The body, which clients may leave out or send without a Content-Type."""
    data = await request.body()
    return load_object(data) if data.strip() else {}


def _find(node: Node, caller: Caller, model: str, version: str) -> Offered:
    one = node.serving.find(f"{model}:{version}" if version else model)
    if one is None or not caller.may_use(one.name):
        raise ModelNotFound(f"the model '{model[:100]}' is not on this node")
    return one


def _spec(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape}


def _row(node: Node, one: Offered) -> dict[str, str]:
    ready, reason = node.serving.ready(one.name)
    state = "READY" if ready else "UNAVAILABLE"
    return {"name": one.name, "version": one.version, "state": state, "reason": reason}


def _said(ready: bool, reason: str) -> Response:
    if ready:
        return Response()
    raise Unavailable(reason, retry_after=2)
