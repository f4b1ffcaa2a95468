"""GRPCInferenceService: each call translates, and delegates. What Triton's has beside these is UNIMPLEMENTED.

A unary call takes (request, caller, context), and gives the message or a dict of its fields. The request of
an inference is an Asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf import json_format

from agent.access import Caller
from agent.doors.grpc import oip_pb2 as pb
from agent.doors.grpc.asked import parse, parse_asked
from agent.doors.grpc.guard import Context, Guard
from agent.doors.grpc.infer import infer
from agent.doors.grpc.stream import converse
from agent.doors.grpc.tensors import parameters
from agent.doors.inference_protocol import models
from agent.doors.inference_protocol.config import config
from agent.doors.node_face import Node
from agent.errors import BadRequest, DeadlineExceeded

NAME = "inference.GRPCInferenceService"

Call = Callable[[Any, Caller, Context], Awaitable[Any]]


def service(node: Node) -> grpc.GenericRpcHandler:
    guard, within = Guard(node), node.settings.body_timeout_s
    calls: dict[str, Call] = {**_Calls(node).all(), "ModelInfer": lambda *call: infer(node, *call)}
    handlers = {name: _unary(guard, name, call, within) for name, call in calls.items()}
    handlers["ModelStreamInfer"] = _stream(guard, node)
    return grpc.method_handlers_generic_handler(NAME, handlers)


class _Calls:
    """All but inference."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def all(self) -> dict[str, Call]:
        return {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    async def _live(self, _request: Any, _caller: Caller, _context: Context) -> dict[str, Any]:
        return {"live": True}

    async def _ready(self, _request: Any, _caller: Caller, _context: Context) -> dict[str, Any]:
        return {"ready": self._node.serving.ready()[0]}

    async def _server(self, _request: Any, _caller: Caller, _context: Context) -> dict[str, Any]:
        return models.server()

    async def _model_ready(
        self, request: pb.ModelReadyRequest, caller: Caller, _context: Context
    ) -> dict[str, Any]:
        one = models.find(self._node, caller, request.name, request.version)
        return {"ready": self._node.serving.ready(f"{one.name}:{one.version}")[0]}

    async def _model(
        self, request: pb.ModelMetadataRequest, caller: Caller, _context: Context
    ) -> dict[str, Any]:
        return models.metadata(self._node, models.find(self._node, caller, request.name, request.version))

    async def _config(
        self, request: pb.ModelConfigRequest, caller: Caller, _context: Context
    ) -> dict[str, Any]:
        one = models.find(self._node, caller, request.name, request.version)
        return {"config": config(one, self._node.settings)}

    async def _statistics(
        self, request: pb.ModelStatisticsRequest, caller: Caller, _context: Context
    ) -> dict[str, Any]:
        return {"model_stats": models.statistics(self._node, caller, request.name, request.version)}

    async def _index(
        self, request: pb.RepositoryIndexRequest, caller: Caller, _context: Context
    ) -> dict[str, Any]:
        return {"models": models.index(self._node, caller, only_ready=request.ready)}

    async def _load(
        self, request: pb.RepositoryModelLoadRequest, caller: Caller, _context: Context
    ) -> dict[str, Any]:
        await models.load(self._node, caller, request.model_name, parameters(request.parameters))
        return {}

    async def _unload(
        self, request: pb.RepositoryModelUnloadRequest, caller: Caller, _context: Context
    ) -> dict[str, Any]:
        await models.unload(self._node, caller, request.model_name)
        return {}


def _unary(guard: Guard, name: str, call: Call, within_s: float) -> grpc.RpcMethodHandler:
    """To gRPC a stream of one request, which clients cannot tell: only so can the wait for it have an end."""
    request, response = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
    read = parse_asked if request is pb.ModelInferRequest else partial(parse, request)

    async def handle(_: AsyncIterator[bytes], context: Context) -> bytes:
        async def work(caller: Caller) -> Any:
            return await call(read(await _only(context, within_s)), caller, context)

        found = await guard.run(name, context, work)
        told = json_format.ParseDict(found, response()) if isinstance(found, dict) else found
        return told.SerializeToString()  # type: ignore[no-any-return]

    return grpc.stream_unary_rpc_method_handler(
        handle
    )  # it parses by itself: what fails is the caller's error


async def _only(context: Context, within_s: float) -> bytes:
    """Raises DeadlineExceeded, or BadRequest where none comes."""
    try:
        async with asyncio.timeout(within_s):
            data = await context.read()
    except TimeoutError:
        raise DeadlineExceeded(f"the request did not arrive within {within_s:g} s") from None
    if not isinstance(data, bytes):  # grpc.aio.EOF
        raise BadRequest("the call has no request")
    return data


def _stream(guard: Guard, node: Node) -> grpc.RpcMethodHandler:
    async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
        await guard.run("ModelStreamInfer", context, lambda caller: converse(node, requests, caller, context))

    return grpc.stream_stream_rpc_method_handler(
        handle, response_serializer=pb.ModelStreamInferResponse.SerializeToString
    )
