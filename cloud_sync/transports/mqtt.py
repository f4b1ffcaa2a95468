"""HTTPS through an MQTT broker, where the controller cannot be reached: see cloud_sync/tunnel."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

from cloud_sync.transports.https import Https, fetch_ca
from cloud_sync.transports.transport import Hint, LinkError
from cloud_sync.tunnel.broker import BrokerError, Place
from cloud_sync.tunnel.near import Tunnels

_URL = "https://controller"  # its name is free: the CA is pinned


class Mqtt(Https):
    """The same, with the broker between. `node`: for topics alone; who it is says its certificate."""

    def __init__(self, place: Place, node: str, socket: Path, ca: Path, identity: Path | None) -> None:
        """LinkError: the identity cannot be used."""
        self._tunnels = Tunnels(place, node, socket)
        super().__init__(_URL, ca, identity, "none", socket)

    async def hints(self) -> AsyncGenerator[Hint | None, None]:
        with _translated():
            await self._tunnels.connect()
        async with contextlib.aclosing(super().hints()) as hints:
            async for hint in hints:
                yield hint

    async def close(self) -> None:
        await super().close()
        await self._tunnels.close()

    async def _ask(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
        with _translated():
            await self._tunnels.connect()
        return await super()._ask(method, path, **more)


async def fetch_ca_by_broker(place: Place, node: str, socket: Path) -> bytes:
    """As `fetch_ca`. LinkError."""
    tunnels = Tunnels(place, node, socket)
    try:
        with _translated():
            await tunnels.connect()
        return await fetch_ca(_URL, socket)
    finally:
        await tunnels.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (BrokerError, OSError) as error:
        raise LinkError(str(error)) from error
