"""The load process asks again when it has a whole answer, and counts what is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import perf_counter

import grpc
import grpc.aio

from bench.tensors import load, wire
from bench.tensors.figures import Log

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

REQUEST = b"POST /x HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi"
SECONDS = 0.5


@asynccontextmanager
async def serving(handle: Handle) -> AsyncIterator[int]:
    """The port; at the end each connection's handler has ended too."""
    handlers = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await handle(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.wait(handlers)


async def test_http_clients_keep_their_connections_and_ask_again_and_again() -> None:
    seen = {"connections": 0, "asked": 0, "refused": 0}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen["connections"] += 1
        while await reader.readexactly(len(REQUEST)) == REQUEST:
            seen["asked"] += 1
            refused = seen["asked"] % 3 == 0
            seen["refused"] += refused
            writer.write(f"HTTP/1.1 {429 if refused else 200} X\r\ncontent-".encode())
            await writer.drain()
            await asyncio.sleep(0.001)  # an answer in two pieces
            writer.write(b"length: 3\r\n\r\nabc")

    log = Log()
    async with serving(serve) as port:
        await load.http(port, 4, REQUEST, log, perf_counter() + SECONDS)
    assert seen["connections"] == 4
    assert seen["asked"] > 4, "each client asked but once"
    assert log.errors > 0
    assert 0 <= seen["asked"] - (len(log.ended) + log.errors) <= 4, "what was on its way at the end"
    assert log.errors <= seen["refused"] <= log.errors + 4


async def test_a_connection_that_is_lost_is_an_error() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(REQUEST))

    log = Log()
    async with serving(serve) as port:
        await load.http(port, 2, REQUEST, log, perf_counter() + SECONDS)
    assert (len(log.ended), log.errors) == (0, 2)


async def test_grpc_clients_send_the_bytes_as_they_are() -> None:
    seen: list[bytes] = []

    async def infer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:  # type: ignore[type-arg]
        seen.append(request)
        if len(seen) % 3 == 0:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return b"answer"

    service, method = wire.METHOD.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(infer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    log = Log()
    try:
        await load.rpc(port, 3, b"as it is", log, perf_counter() + SECONDS)
    finally:
        await server.stop(0)
    assert set(seen) == {b"as it is"}
    assert len(log.ended) + log.errors == len(seen) > 3
    assert log.errors == len(seen) // 3
