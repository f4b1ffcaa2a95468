"""Lost nodes, and their return: recorded once, whoever watches. The time is handed in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio
from sqlalchemy import select

from cloud_sync import identity
from cloud_sync.controller.answers import Answers
from cloud_sync.controller.audit import Actor
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.fleet import Fleet
from cloud_sync.controller.joining import Joining
from cloud_sync.controller.reports import Reports
from cloud_sync.controller.store import Store, open_store
from cloud_sync.controller.store.telemetry_tables import FleetEvent
from cloud_sync.controller.watch import Watch
from cloud_sync.identity import DAY, Authority, Holder, new_authority
from cloud_sync.messages import Answer, Join, Report

BEGIN = 1_800_000_000.0


class Copy:
    """One copy of the controller, in this process. All share the database and the time."""

    def __init__(self, store: Store, authority: Authority, settings: ControllerSettings) -> None:
        self.store = store
        self.joining = Joining(store, authority, settings)
        self.reports = Reports(store, settings)
        self.fleet = Fleet(store, settings)
        self.watch = Watch(store, self.reports, Answers(store))


class World:
    def __init__(self, authority: Authority, copies: list[Copy], clock: list[float]) -> None:
        self.authority, self.copies, self._clock = authority, copies, clock
        self._numbers: dict[str, int] = {}

    async def node(self, name: str) -> Holder:
        key, joining = identity.new_key(), self.copies[0].joining
        token = await joining.new_token(Actor("test", ""), DAY, {}, None)
        csr = identity.request(key, name).decode()
        joined = await joining.join(Join(token=token, csr=csr, name=name), "")
        return self.authority.holder(joined.certificate.encode())

    async def report(self, node: Holder, copy: int = 0) -> Answer:
        number = self._numbers[node.node] = self._numbers.get(node.node, 0) + 1
        said = Report(boot=f"boot-of-{node.node}", number=number, version="1")
        return await self.copies[copy].reports.take(node, said, "10.0.0.1")

    async def later(self, seconds: float) -> None:
        """Time goes on, and all copies watch."""
        while seconds > 0:
            step = min(10.0, seconds)
            self._clock[0] += step
            seconds -= step
            await asyncio.gather(*(copy.watch.sweep() for copy in self.copies))

    def nobody_runs(self, seconds: float) -> None:
        self._clock[0] += seconds

    async def events(self) -> list[tuple[str | None, str]]:
        async with self.copies[0].store.read() as session:
            rows = await session.scalars(select(FleetEvent).order_by(FleetEvent.id))
            return [(row.node, row.kind) for row in rows if row.kind != "node.joined"]

    async def states(self) -> dict[str, str]:
        return {row.name: row.state for row in await self.copies[0].fleet.nodes("", 100)}


@pytest_asyncio.fixture
async def world(database: Callable[[], dict[str, str]], tmp_path: Path) -> AsyncIterator[World]:
    url = database().get("AUTOGLM_CLOUD_DATABASE_URL", f"sqlite:///{tmp_path / 'controller.db'}")
    clock = [BEGIN]
    authority = new_authority("test", BEGIN)
    settings = ControllerSettings(data_dir=tmp_path, heartbeat_s=30, stream_lost_s=20)
    number = 2 if url.startswith("postgresql") else 1
    copies = [Copy(await open_store(url, lambda: clock[0]), authority, settings) for _ in range(number)]
    yield World(authority, copies, clock)
    for copy in copies:
        await copy.store.close()


async def test_three_heartbeats_that_did_not_come_and_a_node_is_lost_until_it_is_back(world: World) -> None:
    quiet, well = await world.node("quiet"), await world.node("well")
    await world.node("never-there")
    await world.report(quiet)
    await world.report(well)
    await world.later(80)
    await world.report(well)
    assert await world.states() == {"quiet": "active", "well": "active", "never-there": "active"}
    await world.later(30)
    assert await world.states() == {"quiet": "lost", "well": "active", "never-there": "active"}
    await world.report(well)
    await world.later(60)
    await asyncio.gather(*(world.report(quiet, index) for index in range(len(world.copies))))
    assert await world.states() == {"quiet": "active", "well": "active", "never-there": "active"}
    assert await world.events() == [("quiet", "node.lost"), ("quiet", "node.returned")]


async def test_many_nodes_at_once_have_one_event_each(world: World) -> None:
    nodes = [await world.node(f"n{number}") for number in range(12)]
    await asyncio.gather(*map(world.report, nodes))
    await world.later(100)
    assert sorted(await world.events()) == sorted((f"n{number}", "node.lost") for number in range(12))


async def test_a_stream_of_hints_that_breaks_off_tells_sooner(world: World) -> None:
    node, returns = await world.node("cut"), await world.node("returns")
    reports = world.copies[0].reports
    for one in (node, returns):
        await world.report(one)
        stream = await reports.opened(one, "10.0.0.1")
        await reports.dropped(one, stream)
    await world.later(10)
    await world.copies[-1].reports.opened(returns, "10.0.0.1")
    await world.later(20)
    assert await world.states() == {"cut": "lost", "returns": "active"}
    await reports.opened(node, "10.0.0.1")
    assert await world.events() == [("cut", "node.lost"), ("cut", "node.returned")]


async def test_a_stream_that_is_found_dead_after_the_next_was_opened_says_nothing(world: World) -> None:
    node = await world.node("moved")
    first = await world.copies[0].reports.opened(node, "10.0.0.1")
    await world.copies[-1].reports.opened(node, "10.0.0.2")
    await world.copies[0].reports.dropped(node, first)
    await world.later(60)
    assert await world.states() == {"moved": "active"}


async def test_time_in_which_no_controller_ran_counts_for_nobody(world: World) -> None:
    node = await world.node("patient")
    await world.report(node)
    await world.later(30)
    world.nobody_runs(5 * DAY)
    await world.later(40)
    assert await world.states() == {"patient": "active"}
    await world.later(60)
    assert await world.states() == {"patient": "lost"}


async def test_what_comes_together_is_answered_for_each(world: World) -> None:
    """One that counts no longer, in the same group as others."""
    good, bad = await world.node("good"), await world.node("bad")
    await world.copies[0].fleet.revoke(Actor("test", ""), "bad")
    answers: list[Any] = await asyncio.gather(
        world.report(good), world.report(bad), world.report(good), return_exceptions=True
    )
    assert [type(one).__name__ for one in answers] == ["Answer", "Forbidden", "Answer"]
    rows = {row.name: row for row in await world.copies[0].fleet.nodes("", 100)}
    assert rows["good"].seen_at == BEGIN
    assert rows["bad"].seen_at is None
