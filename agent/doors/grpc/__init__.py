"""The gRPC door: the Open Inference Protocol's GRPCInferenceService, with Triton's extensions."""

from __future__ import annotations

import asyncio
import importlib

from agent.doors.node_face import Node


async def serve(node: Node) -> None:
    """Until cancelled; returns at once where it has no port. gRPC is loaded only where it has one."""
    if node.settings.grpc_port is not None:
        door = await asyncio.to_thread(importlib.import_module, "agent.doors.grpc.door")
        await door.serve(node)
