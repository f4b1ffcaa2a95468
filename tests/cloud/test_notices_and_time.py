"""When a receiver of notices is told, with the time handed in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from cloud_sync.controller.audit import Actor
from cloud_sync.controller.notices import Delivery, Hooks
from cloud_sync.controller.store import Store, open_store
from cloud_sync.controller.store.events import record_event
from tests.support.receiver import Receiver

NOW = 1_800_000_000.0
TEN_YEARS = 10 * 365 * 86400.0


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    one = await open_store(f"sqlite:///{tmp_path / 'controller.db'}", lambda: NOW)
    yield one
    await one.close()


async def until(store: Store, hooks: Hooks, failed: bool) -> None:
    """The receiver is away, or has all."""
    async with asyncio.timeout(60):
        while True:
            [row] = await hooks.all()
            if (row.failures > 0) if failed else row.waiting == 0:
                return
            await asyncio.sleep(0.05)


async def test_a_clock_that_was_set_back_delays_no_notice(store: Store) -> None:
    receiver, hooks = Receiver(), Hooks(store)
    await hooks.add(Actor("test", ""), receiver.url, [], None)
    async with store.write() as session:
        record_event(session, NOW, "box", "node.lost", {})
    store.now = lambda: NOW + TEN_YEARS
    running = asyncio.create_task(Delivery(store, hooks, "").run())
    try:
        await until(store, hooks, failed=True)
        store.now = lambda: NOW
        receiver.start()
        await until(store, hooks, failed=False)
        assert len(receiver.posts) == 1
    finally:
        running.cancel()
        receiver.stop()
