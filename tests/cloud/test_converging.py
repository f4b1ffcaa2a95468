"""Every node hears of its document, whatever happens at the same moment. Without doors, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text
from structlog.testing import capture_logs

from cloud_sync import identity
from cloud_sync.controller.audit import Actor
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.fleet import Fleet
from cloud_sync.controller.hints import Hints
from cloud_sync.controller.joining import Joining
from cloud_sync.controller.store import Store, open_store
from cloud_sync.controller.told import told
from cloud_sync.identity import new_authority
from cloud_sync.messages import Join
from tests.cloud.test_hostile_nodes import until_waiting

NOW = 1_800_000_000.0
ADMIN = Actor("test", "")


@pytest_asyncio.fixture
async def store(database: Callable[[], dict[str, str]], tmp_path: Path) -> AsyncIterator[Store]:
    url = database().get("AUTOGLM_CLOUD_DATABASE_URL", f"sqlite:///{tmp_path / 'controller.db'}")
    one = await open_store(url, lambda: NOW)
    yield one
    await one.close()


async def join(store: Store, settings: ControllerSettings, name: str) -> None:
    joining = Joining(store, new_authority("test", NOW), settings)
    token = await joining.new_token(ADMIN, 3600, {}, None)
    csr = identity.request(identity.new_key(), name).decode()
    await joining.join(Join(token=token, csr=csr, name=name), "")


async def test_hints_go_on_after_the_database_failed(store: Store, tmp_path: Path) -> None:
    settings, hints = ControllerSettings(data_dir=tmp_path), Hints(store)
    await join(store, settings, "listens")
    async with store.read() as session:
        node = await session.scalar(text("SELECT id FROM nodes"))
    running = asyncio.create_task(hints.run())
    with capture_logs() as logs, hints.listening(node, "serial") as listener:
        await rename(store, "certificates", "away")
        async with asyncio.timeout(30):
            while not logs and not running.done():
                await hints.changed()
                await asyncio.sleep(0.02)
        await Fleet(store, settings).change(ADMIN, "all", {"priority": 3})  # and no hint of its own
        await rename(store, "away", "certificates")
        assert await listener.next(30) == 2
        assert not running.done()
    running.cancel()


async def rename(store: Store, table: str, name: str) -> None:
    async with store.write() as session:
        await session.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


async def test_a_node_that_joins_while_a_layer_is_made_has_it(store: Store, tmp_path: Path) -> None:
    if not store.postgres:
        pytest.skip("SQLite has one writer")
    settings = ControllerSettings(data_dir=tmp_path)
    fleet = Fleet(store, settings)
    await join(store, settings, "first")
    async with store.write() as session:  # which holds the change up while it looks whom it concerns
        await session.execute(text("SELECT 1 FROM nodes FOR UPDATE"))
        changing = asyncio.create_task(fleet.change(ADMIN, "all", {"priority": 3}))
        await until_waiting(store, 1)
        await join(store, settings, "second")
    assert await changing == 2
    for name in ("first", "second"):
        assert (await told(store, name)).settings == {"priority": 3}
