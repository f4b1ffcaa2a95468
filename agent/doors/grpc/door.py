"""The gRPC door's server: its port, its bounds, and how it closes."""

from __future__ import annotations

import asyncio
import os

import structlog

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is told below, in our own log

import grpc
from grpc_health.v1 import health_pb2_grpc

from agent.doors.grpc import reflection
from agent.doors.grpc.health import Health
from agent.doors.grpc.service import service
from agent.doors.node_face import Node

AGAIN_S = 3.0  # between attempts to get the port
CLOSING_S = 1.0  # for answers that are on their way out; idle streams are ended then
CALLS = 256  # at once; more are refused before their tensors are read
WINDOW = 512 * 1024  # bytes of a message that come without asking the client for more
OPTIONS = {
    "grpc.so_reuseport": 0,  # else two agents would share a port, and its callers, without a word
    "grpc.max_send_message_length": -1,  # outputs are as large as they are
    "grpc.keepalive_time_ms": 60_000,  # so that a client that vanished is noticed
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.http2.lookahead_bytes": WINDOW,
    "grpc.http2.bdp_probe": 0,
    "grpc.http2.max_frame_size": WINDOW,
}

log = structlog.get_logger()


async def serve(node: Node) -> None:
    """Until cancelled. A port that cannot be had is told of and asked for again; the other doors go on."""
    while True:
        server = _server(node)
        host, port = node.settings.http_host or "0.0.0.0", node.settings.grpc_port  # noqa: S104
        try:
            port = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            break
        except RuntimeError:
            says = f"cannot listen on {host}, port {port}: another program has it; see AUTOGLM_GRPC_PORT"
            if node.doors.get("grpc") != says:
                log.warning("no grpc", reason=says, again_in_s=AGAIN_S)
            node.doors["grpc"] = says
        await asyncio.sleep(AGAIN_S)
    await server.start()
    node.doors["grpc"] = f"listening on {host}, port {port}"
    log.info("grpc listening", host=host, port=port)
    try:
        await server.wait_for_termination()
    finally:
        await server.stop(CLOSING_S)


def _server(node: Node) -> grpc.aio.Server:
    options = OPTIONS | {"grpc.max_receive_message_length": node.settings.max_body_bytes}
    server = grpc.aio.server(options=list(options.items()), maximum_concurrent_rpcs=CALLS)
    server.add_generic_rpc_handlers((service(node),))
    health_pb2_grpc.add_HealthServicer_to_server(Health(node), server)
    reflection.add(server, node.settings.body_timeout_s)
    return server
