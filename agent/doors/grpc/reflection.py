"""The standard reflection service, by which grpcurl and the like learn the calls. Like /docs, it is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from agent.doors.grpc.guard import Context
from agent.doors.grpc.service import NAME

SERVICES = (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # it has no types
    """Ends the call of one who asks nothing for `idle_s`: it has one of the places of all calls."""

    def __init__(self, idle_s: float) -> None:
        super().__init__(SERVICES)
        self._idle_s = idle_s

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        async for answer in super().ServerReflectionInfo(self._prompt(requests, context), context):
            yield answer

    async def _prompt(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    asked = await anext(requests, None)
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "nothing was asked for too long")
            if asked is None:
                return
            yield asked


def add(server: grpc.aio.Server, idle_s: float) -> None:
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(Reflection(idle_s), server)
