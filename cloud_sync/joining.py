"""`join`: this machine becomes a node, and `leave`. Killed at any moment, either may be asked for again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from cloud_sync import identity
from cloud_sync.identity import BadIdentity
from cloud_sync.join_token import JoinToken
from cloud_sync.membership import Fleet, Membership
from cloud_sync.messages import Join
from cloud_sync.transports.choice import find_ca, open_transport
from cloud_sync.transports.transport import LinkError, Rejected
from models.disk import write_private


async def join(
    url: str, token: str, name: str, labels: Mapping[str, str], folder: Path, broker_ca: str = ""
) -> Membership:
    """`broker_ca`: PEM. Raises Rejected, LinkError, OSError; ValueError: the token is none."""
    fleet = Fleet(url=url.rstrip("/"), name=name, broker_ca=broker_ca)
    given = JoinToken.parse(token)
    ca = await find_ca(fleet, folder)
    try:
        right = identity.fingerprint(ca) == given.fingerprint
    except BadIdentity:
        right = False
    if not right:
        raise Rejected("wrong_controller", f"{fleet.shown} is not the controller that this token comes from")
    ca = identity.alone(ca)  # whoever is in between may have put another beside it
    key = await asyncio.to_thread(_key, folder / "joining.key")
    trusted = folder / "joining.ca"  # until it is a node there, what it is elsewhere stays as it is
    await asyncio.to_thread(write_private, trusted, ca)
    transport = open_transport(fleet, trusted, None)
    try:
        csr = identity.request(key, name).decode()
        joined = await transport.join(Join(token=token, csr=csr, name=name, labels=dict(labels)))
    finally:
        await transport.close()
    pair = key + joined.certificate.encode()
    fleet.name = joined.name
    return await asyncio.to_thread(Membership.create, folder, fleet, ca, pair)


async def leave(folder: Path, force: bool) -> None:
    """Tell the controller, and forget the fleet. `force`: whether it heard or not.

    Raises NotJoined, LinkError, OSError. One that counts no longer there has nothing to tell.
    """
    membership = await asyncio.to_thread(Membership, folder)
    with contextlib.suppress(*((LinkError, Rejected) if force else (Rejected,))):
        transport = open_transport(membership.fleet, membership.ca, membership.identity)
        try:
            await transport.leave()
        finally:
            await transport.close()
    await asyncio.to_thread(membership.end)


def _key(path: Path) -> bytes:
    """Kept before it is used: the controller knows by it who asks again."""
    if not path.exists():
        write_private(path, identity.new_key())
    return path.read_bytes()
