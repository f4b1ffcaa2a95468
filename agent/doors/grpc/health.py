"""The standard health service, which KServe and load balancers ask. Like /readyz, it tells anyone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from agent.doors.grpc.guard import Context
from agent.doors.grpc.service import NAME
from agent.doors.node_face import Node

LOOK_S = 0.5  # how often a watcher is told of a change


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    def __init__(self, node: Node) -> None:
        self._node = node

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        if (status := self._status(request.service)) == pb.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return pb.HealthCheckResponse(status=status)

    async def Watch(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        told = None
        while True:
            if (now := self._status(request.service)) != told:
                yield pb.HealthCheckResponse(status=now)
                told = now
            await asyncio.sleep(LOOK_S)

    def _status(self, service: str) -> int:
        if service not in ("", NAME):
            return int(pb.HealthCheckResponse.SERVICE_UNKNOWN)
        ready, _ = self._node.serving.ready()
        return int(pb.HealthCheckResponse.SERVING if ready else pb.HealthCheckResponse.NOT_SERVING)
