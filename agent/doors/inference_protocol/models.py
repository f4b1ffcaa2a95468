"""The server and its models as the protocol tells of them, in dicts for JSON and protobuf; their loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent import __version__
from agent.access import Caller
from agent.doors.node_face import Node
from agent.errors import BadRequest, ModelNotFound, Unavailable
from agent.offered import Offered
from models.errors import ModelError, NotOnShelf
from models.onnx import TensorSpec

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
)


def server() -> dict[str, Any]:
    return {"name": "open-autoglm-edge", "version": __version__, "extensions": list(EXTENSIONS)}


def find(node: Node, caller: Caller, model: str, version: str = "") -> Offered:
    """The Model of this name, where the caller may use it. Raises ModelNotFound."""
    name = f"{model}:{version}" if version else model
    one = node.serving.find(name) if model else None
    if one is None or not caller.may_use(one.name):
        raise ModelNotFound(f"the model '{name[:100]}' is not on this node")
    return one


def metadata(node: Node, one: Offered) -> dict[str, Any]:
    versions = [live.version for live in node.serving.live(one.name)]
    about = {"name": one.name, "versions": versions, "platform": one.platform}
    return about | {"inputs": list(map(_spec, one.inputs)), "outputs": list(map(_spec, one.outputs))}


def index(node: Node, caller: Caller, *, only_ready: bool) -> list[dict[str, str]]:
    """The models that the caller may use, loaded or not."""
    rows = [
        _row(node, live)
        for one in node.serving.offered()
        if caller.may_use(one.name)
        for live in node.serving.live(one.name)
    ]
    return [row for row in rows if not only_ready or row["state"] == "READY"]


def statistics(node: Node, caller: Caller, model: str = "", version: str = "") -> list[dict[str, Any]]:
    """Of one model of tensors, or of all of them. Raises ModelNotFound, and BadRequest for one of text."""
    if not model:
        mine = [one.name for one in node.serving.offered() if caller.may_use(one.name)]
        return [one.public(name) for name in mine for one in node.serving.statistics(name)]
    name = find(node, caller, model, version).name
    found = node.serving.statistics(f"{name}:{version}" if version else name)
    if not found:
        raise BadRequest(f"{name} generates text: /metrics has its statistics")
    return [one.public(name) for one in found]


async def load(node: Node, caller: Caller, model: str, parameters: Mapping[str, Any]) -> None:
    """Load a model.

    Raises Forbidden, BadRequest, ModelNotFound, and Unavailable where it does not load.
    """
    caller.needs_admin()
    if parameters:
        raise BadRequest(f"a load takes no parameters here, and was given '{min(parameters)[:100]}'")
    try:
        await node.load(model)
    except NotOnShelf as error:
        raise ModelNotFound(str(error)) from None
    except (ModelError, OSError) as error:
        raise Unavailable(str(error), retry_after=10) from None


async def unload(node: Node, caller: Caller, model: str) -> None:
    """Free a model's memory when its running answers have ended. Raises Forbidden, ModelNotFound."""
    caller.needs_admin()
    try:
        await node.unload(model)
    except NotOnShelf as error:
        raise ModelNotFound(str(error)) from None


def _spec(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "datatype": spec.datatype, "shape": shape}


def _row(node: Node, one: Offered) -> dict[str, str]:
    ready, reason = node.serving.ready(f"{one.name}:{one.version}")
    state = "READY" if ready else "UNAVAILABLE"
    return {"name": one.name, "version": one.version, "state": state, "reason": reason}
