"""`python -m bench.cloud.fleet SPEC`: the simulated fleet. Each node has a connection of its own, kept open.

Reports go at their times, whether earlier ones were answered or not; a latency is from the time at which a
report was due until its answer is whole, so that a server that stalls is not spared the wait.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from cloud_sync.messages import API, ModelReport, Report
from cloud_sync.transports.https import pinned

AT_ONCE = 100  # connections that are being made
WARM_S = 2.0  # of reports, before those that count
LAST_S = 3.0  # for the last answers


@dataclass(frozen=True, slots=True)
class Spec:
    port: int
    certificates: str
    """A file: JSON, PEM of each node."""
    seconds: float = 0.0
    rate: float = 0.0
    """Reports each second, over all nodes."""
    ca: str = ""
    key: str = ""
    """TLS with the node's certificate; empty: plain HTTP and the header of a proxy."""


class Wire(asyncio.Protocol):
    """One node's connection. Answers come in the order of requests."""

    def __init__(self) -> None:
        self._data = b""
        self._due: deque[float] = deque()
        self.latencies: list[tuple[float, float]] = []  # when it was due, how long it took
        self.bad = 0
        self.events: list[float] = []
        self.opened = asyncio.Event()
        self._stream = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.bad += len(self._due)

    def listen(self, head: bytes) -> None:
        self._stream = True
        self._transport.write(b"GET " + API.encode() + b"/node/hints HTTP/1.1\r\n" + head + b"\r\n")

    def report(self, head: bytes, body: bytes, due: float) -> None:
        self._due.append(due)
        if self._transport.is_closing():
            self.bad += 1
            return
        length = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(b"POST " + API.encode() + b"/node/report HTTP/1.1\r\n" + head + length + body)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._stream:
            if b"listening" in self._data:
                self.opened.set()
            if b"event: desired" in self._data:
                self.events.append(time.monotonic())
            self._data = self._data[-14:] if b"event: desired" not in self._data else b""
            return
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._data) < end + 4 + length:
                return
            self._data = self._data[end + 4 + length :]
            self.bad += not head.startswith(b"http/1.1 200")
            due = self._due.popleft()
            self.latencies.append((due, time.monotonic() - due))


class Node:
    def __init__(self, number: int, pem: str, spec: Spec) -> None:
        self._boot, self._number = f"boot-{number:05}", 0
        self.head = (
            b"host: 127.0.0.1\r\naccept: */*\r\naccept-encoding: gzip, deflate\r\nuser-agent: autoglm\r\n"
        )
        self._pem, self._spec = pem, spec
        if not spec.key:
            der = base64.b64encode(ssl.PEM_cert_to_DER_cert(pem))
            self.head += b"x-client-certificate: " + der + b"\r\nx-forwarded-for: 10.0.0.1\r\n"
        self.wire = Wire()

    async def connect(self) -> None:
        context = _identity(self._spec, self._pem) if self._spec.key else None
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.wire, "127.0.0.1", self._spec.port, ssl=context)

    def report(self, due: float) -> None:
        self._number += 1
        said = Report(
            boot=self._boot, number=self._number, version="0.1.0", uptime_s=86400 + self._number, epoch=1,
            generation=1, observed_generation=1, ready=True,
            models=[ModelReport(name="smollm2-135m-instruct", version="c0ffee", state="ready")],
        )  # fmt: skip
        self.wire.report(self.head, said.model_dump_json(exclude_defaults=True).encode(), due)


def _identity(spec: Spec, pem: str) -> ssl.SSLContext:
    path = Path(spec.key).with_name("one.pem")
    path.write_text(Path(spec.key).read_text() + pem)
    return pinned(Path(spec.ca).read_text(), path)


async def connected(nodes: Sequence[Node]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def connect(node: Node) -> None:
        async with gate:
            await node.connect()

    await asyncio.gather(*map(connect, nodes))


async def reports(nodes: Sequence[Node], spec: Spec) -> dict[str, Any]:
    begun = time.monotonic()
    total = int((WARM_S + spec.seconds) * spec.rate)
    say(begun=begun + WARM_S)
    for sent in range(total):  # the first ones warm it up
        due = begun + sent / spec.rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        nodes[sent % len(nodes)].report(due)
    await asyncio.sleep(LAST_S)
    answered = [one for node in nodes for one in node.wire.latencies if one[0] >= begun + WARM_S]
    missing = total - sum(len(node.wire.latencies) for node in nodes)
    bad = missing + sum(node.wire.bad for node in nodes)
    return {"latencies": [latency for _, latency in answered], "bad": bad, "total": total}


async def hints(nodes: Sequence[Node]) -> dict[str, Any]:
    for node in nodes:
        node.wire.listen(node.head)
    await asyncio.gather(*(node.wire.opened.wait() for node in nodes))
    say(listening=len(nodes))
    await asyncio.to_thread(sys.stdin.readline)  # until it is told that enough was heard
    return {"events": [node.wire.events[0] for node in nodes if node.wire.events]}


def say(**told: Any) -> None:
    print(json.dumps(told), flush=True)


async def main(kind: str, spec: Spec, nodes: Sequence[Node]) -> None:
    begun = time.monotonic()
    await connected(nodes)
    say(connected_s=time.monotonic() - begun)
    say(**(await hints(nodes) if kind == "hints" else await reports(nodes, spec)))


if __name__ == "__main__":
    told = Spec(**json.loads(sys.argv[2]))
    pems = json.loads(Path(told.certificates).read_text())
    fleet = [Node(number, pem, told) for number, pem in enumerate(pems)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], told, fleet))
