"""ModelInfer: one Inference, which ends with its caller."""

from __future__ import annotations

import asyncio

from agent.access import Caller
from agent.doors.grpc import oip_pb2 as pb
from agent.doors.grpc.asked import Asked
from agent.doors.grpc.guard import Context
from agent.doors.grpc.tensors import answer, read
from agent.doors.inference_protocol.models import find
from agent.doors.node_face import Node
from agent.doors.openai.strict_json import LARGE
from agent.tensor import Inference


async def infer(node: Node, found: Asked, caller: Caller, context: Context) -> pb.ModelInferResponse:
    """Raises AgentError. A client that cancels, goes away or waits no longer cancels this task."""
    request = found.request
    name = find(node, caller, request.model_name, request.model_version).name
    model = f"{name}:{request.model_version}" if request.model_version else request.model_name
    asked = await _read(found, context.time_remaining(), model=model, sender=caller.sender)
    ticket = node.serving.infer(asked)
    try:
        return answer(request.id, name, ticket.version, await ticket.only())
    finally:
        ticket.cancel()


async def _read(found: Asked, remaining: float | None, *, model: str, sender: str) -> Inference:
    """Beside the event loop where it takes long: typed values, and texts, are read one by one."""
    texts = any(one.datatype == "BYTES" for one in found.request.inputs)
    if found.size + texts * sum(map(len, found.raw)) <= LARGE:
        return read(found, remaining, model=model, sender=sender)
    return await asyncio.to_thread(read, found, remaining, model=model, sender=sender)
