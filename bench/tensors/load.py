"""The load process: `python -m bench.tensors.load --model magika --protocol http --port 8080 --clients 8`.

A closed loop: each client has a connection of its own and sends the same bytes again when it has its answer.
Nothing is encoded or decoded while it runs, so that it takes as little as it can from the servers beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from time import perf_counter
from typing import cast

import grpc
import grpc.aio
import uvloop

from bench.tensors import wire
from bench.tensors.cases import ROWS, case
from bench.tensors.figures import Figures, Log, Window, show, summarise, window_of


class HttpClient(asyncio.Protocol):
    """HTTP/1.1 with keep-alive. A lost connection is an error, and its end."""

    def __init__(self, request: bytes, log: Log) -> None:
        self._request, self._log = request, log
        self._pieces = b""
        self._started = 0.0
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from asyncio's
        self._ask()

    def _ask(self) -> None:
        self._started = perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._pieces:
            data = self._pieces + data
        found = wire.head(data)
        if found is None or len(data) < found[2]:
            self._pieces = data
            return
        self._pieces = b""
        if found[0] == 200:
            self._log.answered(self._started, perf_counter())
        else:
            self._log.errors += 1
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._log.errors += not self._over

    def stop(self) -> None:
        self._over = True
        self._transport.close()


async def http(port: int, clients: int, request: bytes, log: Log, ended: float) -> None:
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: HttpClient(request, log), "127.0.0.1", port)
        for _ in range(clients)
    ]
    await asyncio.sleep(ended - perf_counter())
    for _, client in made:
        client.stop()


async def rpc(port: int, clients: int, request: bytes, log: Log, ended: float) -> None:
    """The message's bytes go as they are."""

    async def client() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]  # or all would share one connection
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            call = channel.unary_unary(wire.METHOD)
            while (started := perf_counter()) < ended:
                try:
                    await call(request)
                except grpc.aio.AioRpcError:
                    log.errors += 1
                else:
                    log.answered(started, perf_counter())

    await asyncio.gather(*(client() for _ in range(clients)))


async def run(protocol: str, port: int, clients: int, request: bytes, window: Window) -> Figures:
    log, cpu = Log(), [0.0, 0.0]

    async def stamp(at: int, when: float) -> None:
        await asyncio.sleep(when - perf_counter())
        cpu[at] = time.process_time()

    load = rpc if protocol == "grpc" else http
    async with asyncio.TaskGroup() as group:
        group.create_task(stamp(0, window.began))
        group.create_task(stamp(1, window.ended))
        group.create_task(load(port, clients, request, log, window.ended))
    return summarise(log, window, cpu[1] - cpu[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tensors.load", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", type=Path, required=True, help="the model's, for its inputs")
    parser.add_argument("--protocol", choices=wire.PROTOCOLS, default="http")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--window", nargs=2, type=float, help="in place of --seconds: monotonic seconds")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    request = wire.request(case(args.model, args.file, ROWS.get(args.model, (16,))), args.protocol, args.port)
    window = Window(*args.window) if args.window else window_of(args.seconds)
    if perf_counter() > window.began:
        raise SystemExit("the window has begun already")
    show(uvloop.run(run(args.protocol, args.port, args.clients, request, window)), as_json=args.json)


if __name__ == "__main__":
    main()
