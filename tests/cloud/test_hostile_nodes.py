"""A machine that is a node no longer, or a node that lies: it costs itself, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text

from cloud_sync import identity
from cloud_sync.controller.audit import Actor
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.errors import Conflict, Forbidden, Invalid
from cloud_sync.controller.fleet import Fleet
from cloud_sync.controller.joining import Joining
from cloud_sync.controller.leaving import Leaving
from cloud_sync.controller.reports import Reports
from cloud_sync.controller.store import Store, open_store
from cloud_sync.identity import Authority, Holder, new_authority
from cloud_sync.messages import Join, Renew, Report

NOW = 1_800_000_000.0
ADMIN = Actor("test", "")


class Machine:
    """One that may join, with a key that it keeps."""

    def __init__(self, authority: Authority, name: str) -> None:
        self.key, self.name, self._authority = identity.new_key(), name, authority
        self.csr = identity.request(self.key, name).decode()
        self.certificate = ""

    async def join(self, joining: Joining, token: str) -> Holder:
        asked = Join(token=token, csr=self.csr, name=self.name)
        self.certificate = (await joining.join(asked, "")).certificate
        return self.holder

    @property
    def holder(self) -> Holder:
        return self._authority.holder(self.certificate.encode())

    def renewal(self) -> Renew:
        csr = identity.request(identity.new_key(), self.name).decode()
        return Renew(certificate=self.certificate, csr=csr, proof=identity.prove(self.key, csr.encode()))


class World:
    def __init__(self, store: Store, authority: Authority, settings: ControllerSettings) -> None:
        self.store, self.authority = store, authority
        self.joining = Joining(store, authority, settings)
        self.reports = Reports(store, settings)
        self.fleet = Fleet(store, settings)
        self.leaving = Leaving(store)

    async def token(self, replaces: str | None = None) -> str:
        return await self.joining.new_token(ADMIN, 3600, {}, replaces)

    async def node(self, name: str) -> Holder:
        return await Machine(self.authority, name).join(self.joining, await self.token())

    async def report(self, node: Holder, epoch: int, generation: int = 0) -> int:
        """The epoch that it is answered."""
        said = Report(boot="boot-of-it", number=1, version="1", epoch=epoch, generation=generation)
        return (await self.reports.take(node, said, "")).epoch


@pytest_asyncio.fixture
async def world(database: Callable[[], dict[str, str]], tmp_path: Path) -> AsyncIterator[World]:
    url = database().get("AUTOGLM_CLOUD_DATABASE_URL", f"sqlite:///{tmp_path / 'controller.db'}")
    store = await open_store(url, lambda: NOW)
    yield World(store, new_authority("test", NOW), ControllerSettings(data_dir=tmp_path))
    await store.close()


async def test_a_machine_that_was_replaced_gets_no_identity_by_the_token_that_it_joined_with(
    world: World,
) -> None:
    former, token = Machine(world.authority, "place"), await world.token()
    await former.join(world.joining, token)
    await former.join(world.joining, token)  # as long as it is the node, it may ask again
    newer = Machine(world.authority, "any")
    await newer.join(world.joining, await world.token(replaces="place"))
    with pytest.raises(Forbidden):
        await former.join(world.joining, token)
    with pytest.raises(Forbidden):
        await world.joining.renew(former.renewal(), "")
    assert await world.report(newer.holder, 1) == 1


async def test_a_node_that_was_taken_out_is_not_brought_back_by_a_token_that_was_to_replace_it(
    world: World,
) -> None:
    await world.node("former")
    token = await world.token(replaces="former")
    await world.leaving.remove(ADMIN, "former")
    with pytest.raises(Conflict):
        await Machine(world.authority, "any").join(world.joining, token)
    assert await world.fleet.nodes("", 10) == []


async def test_a_node_that_claims_an_epoch_which_cannot_be_is_refused_and_the_fleet_goes_on(
    world: World,
) -> None:
    liar, honest = await world.node("liar"), await world.node("honest")
    with pytest.raises(Invalid):
        await world.report(liar, 2**53)
    assert await world.report(honest, 1) == 1
    assert await world.report(liar, 3) == 4  # a backup that was older by some restores


async def test_who_renews_while_another_machine_takes_its_place_is_left_with_nothing(world: World) -> None:
    if not world.store.postgres:
        pytest.skip("SQLite has one writer")
    former = Machine(world.authority, "place")
    node = await former.join(world.joining, await world.token())
    token = await world.token(replaces="place")
    async with world.store.write() as session:  # which holds the one up, and then the other
        await session.execute(text("SELECT 1 FROM nodes WHERE id = :id FOR UPDATE"), {"id": node.node})
        replacing = asyncio.create_task(Machine(world.authority, "any").join(world.joining, token))
        await until_waiting(world.store, 1)
        renewing = asyncio.create_task(world.joining.renew(former.renewal(), ""))
        await until_waiting(world.store, 2)
    await replacing
    with pytest.raises(Forbidden):
        await renewing


async def until_waiting(store: Store, count: int) -> None:
    """So many transactions wait for another one's locks."""
    asked = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(30):
        while True:
            async with store.read() as session:
                if await session.scalar(asked) == count:
                    return
            await asyncio.sleep(0.02)
