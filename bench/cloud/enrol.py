"""Nodes by the thousand, put into a database as joining would have done, with real certificates."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

from sqlalchemy import insert, update

from cloud_sync import identity
from cloud_sync.controller.store import open_store
from cloud_sync.controller.store.tables import Certificate, Fleet, Node
from cloud_sync.identity import DAY, Authority

KEY = "fleet.key"  # of all of them: it costs a controller the same


def enrol(data_dir: Path, database: str, count: int) -> list[str]:
    """Their certificates (PEM), in order."""
    return asyncio.run(_enrol(data_dir, database, count))


async def _enrol(data_dir: Path, database: str, count: int) -> list[str]:
    authority = Authority((data_dir / "ca.pem").read_bytes(), (data_dir / "ca.key").read_bytes())
    key, now = identity.new_key(), time.time()
    (data_dir / KEY).write_bytes(key)
    csr = identity.request(key, "simulated")
    nodes, certificates, pems = [], [], []
    for number in range(count):
        id = secrets.token_hex(8)
        pem, holder = authority.issue_node(csr, id, now, 30 * DAY)
        pems.append(pem.decode())
        nodes.append(
            {"id": id, "name": f"simulated-{number:05}", "labels": {"site": "bench"}, "joined_at": now}
        )
        nodes[-1] |= {"generation": 1, "revision": 1}
        certificates.append({"serial": holder.serial, "node": id, "key": "", "not_after": holder.not_after})
    store = await open_store(database)
    try:
        async with store.write() as session:
            await session.execute(insert(Node), nodes)
            await session.execute(insert(Certificate), certificates)
            await session.execute(update(Fleet).values(revision=1))
    finally:
        await store.close()
    return pems
