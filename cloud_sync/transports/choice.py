"""The way to the controller that a fleet's address names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from cloud_sync.membership import Fleet
from cloud_sync.transports.https import Https, fetch_ca
from cloud_sync.transports.mqtt import Mqtt, fetch_ca_by_broker
from cloud_sync.tunnel.broker import Place

JOINING = "joining.sock"


def open_transport(fleet: Fleet, ca: Path, identity: Path | None, proxy: str | None = None) -> Https:
    """LinkError: the identity cannot be used."""
    if _by_broker(fleet):
        socket = ca.with_name("tunnel.sock" if identity else JOINING)  # an agent may run while it joins anew
        return Mqtt(Place(fleet.url, fleet.broker_ca), fleet.name, socket, ca, identity)
    return Https(fleet.url, ca, identity, proxy)


async def find_ca(fleet: Fleet, folder: Path) -> bytes:
    """The controller's CA (PEM), unverified. LinkError, OSError."""
    if not _by_broker(fleet):
        return await fetch_ca(fleet.url)
    return await fetch_ca_by_broker(Place(fleet.url, fleet.broker_ca), fleet.name, folder / JOINING)


def _by_broker(fleet: Fleet) -> bool:
    return urlsplit(fleet.url).scheme in ("mqtt", "mqtts")
