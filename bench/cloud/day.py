"""What an idle node costs its line in a day: the real transport's bytes, headers and bodies."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

from cloud_sync.controller.api.nodes_own import HINT_S
from cloud_sync.membership import Membership
from cloud_sync.messages import ModelReport, Report
from cloud_sync.transports.https import Https
from tests.support.controller import Controller

DAY_S, HEARTBEAT_S = 86400, 300
REPORTS = 6
LIFE = b":\n\n"
CHUNK = b"3\r\n" + LIFE + b"\r\n"


class Counter:
    """A TCP proxy that counts; both ways together."""

    def __init__(self, port: int) -> None:
        self._port, self.bytes = port, 0
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                self.bytes += len(data)
                target.write(data)
        target.close()


def measure() -> list[str]:
    with tempfile.TemporaryDirectory(prefix="autoglm-bench-") as folder:
        controller = Controller(Path(folder) / "controller").start()
        try:
            controller.join(Path(folder) / "node", "idle")
            membership = Membership(Path(folder) / "node" / "cloud")
            reports, wire, hints = asyncio.run(_measure(controller.port, membership))
        finally:
            controller.stop()
    life = DAY_S / HINT_S * len(CHUNK)
    beats = DAY_S / HEARTBEAT_S
    http = (beats * reports + life + hints) / 1000
    tls = (beats * wire + life + DAY_S / HINT_S * 22 + hints) / 1000
    return [
        f"an idle node, a day: {http:.0f} kB of headers and bodies ({reports:.0f} bytes a heartbeat, each"
        f" {HEARTBEAT_S} s; a stream of hints {life / 1000:.0f} kB); with a TLS connection for each heartbeat"
        f" {tls:.0f} kB"
    ]


def _report(number: int) -> Report:
    return Report(
        boot="0123456789abcdef", number=number, version="0.1.0", uptime_s=86400 * 30 + number, epoch=1,
        generation=3, observed_generation=3, ready=True,
        models=[ModelReport(name="smollm2-135m-instruct", version="0123456789ab", state="ready")],
    )  # fmt: skip


async def _measure(port: int, membership: Membership) -> tuple[float, float, float]:
    """Bytes of a heartbeat by HTTP alone, of one with a connection of its own, of the stream's beginning.

    What a report costs on a connection that is there is HTTP and a TLS record's 22 bytes each way.
    """
    counter = Counter(port)
    url = f"https://127.0.0.1:{await counter.start()}"
    kept = Https(url, membership.ca, membership.identity)
    await kept.report(_report(1))
    begun = counter.bytes
    for number in range(REPORTS):
        await kept.report(_report(2 + number))
    reports = (counter.bytes - begun) / REPORTS - 44 * 2
    begun = counter.bytes
    async for _ in kept.hints():
        break
    hints = counter.bytes - begun
    await kept.close()
    begun = counter.bytes
    for number in range(REPORTS):
        alone = Https(url, membership.ca, membership.identity)
        await alone.report(_report(20 + number))
        await alone.close()
    return reports, (counter.bytes - begun) / REPORTS, hints
