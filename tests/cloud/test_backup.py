"""A controller's backup: restored, its nodes converge on what it says then."""

from __future__ import annotations

import asyncio
import gzip
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from cloud_sync import identity
from cloud_sync.controller.audit import Actor
from cloud_sync.controller.backup import BadBackup, NotEmpty, restore, save
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.errors import Refused
from cloud_sync.controller.fleet import Fleet
from cloud_sync.controller.joining import Joining
from cloud_sync.controller.keys import ensure_keys
from cloud_sync.controller.reports import Reports
from cloud_sync.controller.store import Store, open_store
from cloud_sync.controller.store.events import record_event
from cloud_sync.controller.store.tables import Audit, Table
from cloud_sync.controller.store.tables import Fleet as FleetRow
from cloud_sync.controller.store.telemetry_tables import HOURS, FleetEvent
from cloud_sync.controller.telemetry import partitions
from cloud_sync.messages import Join, Renew, Report
from tests.support.agent import Agent
from tests.support.controller import Controller
from tests.support.postgres import Postgres

NOW = 1_800_000_000.0


def test_after_a_restore_nodes_take_what_the_controller_says_though_they_knew_more(
    start_controller: Callable[..., Controller],
    database: Callable[[], dict[str, str]],
    start_node: Callable[..., Agent],
    tmp_path: Path,
) -> None:
    one = start_controller(**database())
    start_node(one, "ahead")
    one.configure("all", priority=3)
    one.until_observed("ahead")
    file = tmp_path / "fleet.backup"
    said = one.run("backup", str(file)).stderr
    assert "readable for you alone" in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for priority in (4, 5):
        one.configure("all", priority=priority)
        one.until_observed("ahead")
    refused = one.run("restore", str(file), check=False)
    assert refused.returncode == 1
    assert "a controller runs" in refused.stderr
    one.stop()
    refused = one.run("restore", str(file), check=False)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    one.run("restore", str(file), "--force")
    one.start()
    until_told(one, "ahead", epoch=2, generation=one.nodes()["ahead"]["generation"])
    with one.client() as client:
        [layer] = client.get("/api/v1/config").json()
    assert layer["settings"] == {"priority": 3}
    one.configure("all", priority=2)
    row = until_told(one, "ahead", epoch=2, generation=one.nodes()["ahead"]["generation"])
    assert row["reported"]["items"]["priority"]["state"] == "applied"


def until_told(controller: Controller, node: str, **wanted: Any) -> dict[str, Any]:
    """Its row, once the node itself says so."""
    until = time.monotonic() + 60
    while True:
        row = controller.nodes()[node]
        if all(row["reported"].get(key) == value for key, value in wanted.items()):
            return row
        assert time.monotonic() < until, json.dumps(row)
        time.sleep(0.05)


async def made(settings: ControllerSettings) -> Store:
    """A controller's data, with something in many tables."""
    store = await open_store(settings.database, lambda: NOW)
    keys = await asyncio.to_thread(ensure_keys, settings.data_dir, NOW)
    joining = Joining(store, keys.authority, settings)
    for number in range(3):
        await joining.new_token(Actor("test", ""), 3600, {"number": str(number)}, None)
    async with store.write() as session:
        record_event(session, NOW, "somebody", "node.lost", {"text": "zażółć \u0000"})
        if store.postgres:
            await partitions.ensure(session, HOURS, {partitions.index(HOURS, NOW)})
        row = {"series": 1, "at": int(NOW), "period_s": 3600, "count": 2}
        await session.execute(insert(HOURS), [{**row, "sum": 1.5, "min": 0.5, "max": 1.0, "last": 1.0}])
    return store


@pytest.mark.parametrize("way", ["sqlite to postgresql", "postgresql to sqlite"])
async def test_a_backup_of_one_database_is_restored_to_the_other(
    way: str, postgres: Postgres, tmp_path: Path
) -> None:
    databases = {"sqlite": "", "postgresql": postgres.database()}
    source, target = way.split(" to ")
    first = ControllerSettings(data_dir=tmp_path / "a", database_url=databases[source])
    second = ControllerSettings(data_dir=tmp_path / "b", database_url=databases[target])
    first.data_dir.mkdir()
    store = await made(first)
    before = await counts(store)
    file = tmp_path / "backup"
    await save(first, file)
    await store.close()
    await restore(second, file, "test", force=False)
    store = await open_store(second.database)
    try:
        after = await counts(store)
        assert after == {**before, "audit": before["audit"] + 1}
        async with store.write() as session:  # new rows go on where the old ones end
            record_event(session, NOW, None, "another", {})
            session.add(Audit(at=NOW, actor="a", address="", action="b", target="c", details={}))
        async with store.read() as session:
            assert await session.scalar(select(FleetRow.epoch)) == 2
            bodies = list(await session.scalars(select(FleetEvent.body).order_by(FleetEvent.id)))
            assert bodies[0]["text"].startswith("zażółć")
    finally:
        await store.close()
    assert (second.data_dir / "ca.key").read_bytes() == (first.data_dir / "ca.key").read_bytes()
    with pytest.raises(NotEmpty):
        await restore(second, file, "test", force=False)


async def counts(store: Store) -> dict[str, int]:
    async with store.read() as session:
        return {
            table.name: await session.scalar(select(func.count()).select_from(table)) or 0
            for table in Table.metadata.sorted_tables
        }


async def test_a_backup_that_is_not_whole_changes_nothing(tmp_path: Path) -> None:
    settings = ControllerSettings(data_dir=tmp_path / "a")
    settings.data_dir.mkdir()
    store = await made(settings)
    before = await counts(store)
    file = tmp_path / "backup"
    await save(settings, file)
    await store.close()
    whole = file.read_bytes()
    lines = gzip.decompress(whole).splitlines(keepends=True)
    newer = json.dumps({**json.loads(lines[0]), "revision": "9999"}).encode() + b"\n"
    for bad in (
        b"",
        b"nonsense",
        whole[: len(whole) // 2],
        gzip.compress(b"{}\n"),
        gzip.compress(b"".join(lines[:-1])),
        gzip.compress(b"".join([newer, *lines[1:]])),
    ):
        file.write_bytes(bad)
        with pytest.raises(BadBackup):
            await restore(settings, file, "test", force=True)
        store = await open_store(settings.database)
        assert await counts(store) == before
        await store.close()


async def test_a_node_whose_certificate_was_renewed_after_the_backup_stays_a_node(tmp_path: Path) -> None:
    settings = ControllerSettings(data_dir=tmp_path / "a")
    settings.data_dir.mkdir()
    keys = await asyncio.to_thread(ensure_keys, settings.data_dir, NOW)
    store = await open_store(settings.database, lambda: NOW)
    joining = Joining(store, keys.authority, settings)
    key, token = identity.new_key(), await joining.new_token(Actor("test", ""), 3600, {}, None)
    csr = identity.request(key, "renews").decode()
    certificate = (await joining.join(Join(token=token, csr=csr, name="renews"), "")).certificate
    await save(settings, file := tmp_path / "backup")
    csr = identity.request(identity.new_key(), "renews").decode()
    asked = Renew(certificate=certificate, csr=csr, proof=identity.prove(key, csr.encode()))
    renewed = keys.authority.holder((await joining.renew(asked, "")).certificate.encode())
    await store.close()
    await restore(settings, file, "test", force=True)
    store = await open_store(settings.database, lambda: NOW)
    try:
        said = Report(boot="boot-one", number=1, version="1", epoch=1, generation=9)
        reports = Reports(store, settings)
        assert (await reports.take(renewed, said, "")).epoch == 2
        assert (await reports.desired(renewed)).epoch == 2
        await Fleet(store, settings).revoke(Actor("test", ""), "renews")
        with pytest.raises(Refused):
            await reports.take(renewed, said.model_copy(update={"number": 2}), "")
    finally:
        await store.close()
