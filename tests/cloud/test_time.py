"""Certificates over months, with the time handed in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cloud_sync import identity
from cloud_sync.controller.audit import Actor
from cloud_sync.controller.config import ControllerSettings
from cloud_sync.controller.errors import Refused
from cloud_sync.controller.joining import Joining
from cloud_sync.controller.store import open_store
from cloud_sync.identity import DAY, new_authority
from cloud_sync.messages import Join, Renew

BEGIN = 1_800_000_000.0


class Machine:
    """What a node does to be one, without the network. `now` moves as the test says."""

    def __init__(self, joining: Joining) -> None:
        self._joining = joining
        self.key = identity.new_key()
        self.certificate = ""

    async def join(self) -> None:
        token = await self._joining.new_token(Actor("test", ""), DAY, {}, None)
        csr = identity.request(self.key, "machine").decode()
        self.certificate = (
            await self._joining.join(Join(token=token, csr=csr, name="machine"), "")
        ).certificate

    async def renew(self) -> None:
        key = identity.new_key()
        csr = identity.request(key, "machine")
        asked = Renew(certificate=self.certificate, csr=csr.decode(), proof=identity.prove(self.key, csr))
        self.certificate = (await self._joining.renew(asked, "")).certificate
        self.key = key


class Months:
    now = BEGIN

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def months() -> Months:
    return Months()


@pytest_asyncio.fixture
async def machine(tmp_path: Path, months: Months) -> AsyncIterator[Machine]:
    store = await open_store(f"sqlite:///{tmp_path / 'controller.db'}", months)
    settings = ControllerSettings(data_dir=tmp_path)
    machine = Machine(Joining(store, new_authority("test", months.now), settings))
    await machine.join()
    yield machine
    await store.close()


async def test_a_node_that_comes_back_after_months_renews_what_is_over(
    machine: Machine, months: Months
) -> None:
    for _ in range(3):
        months.now += 200 * DAY
        _, ended = identity.life(machine.certificate.encode())
        assert ended < months.now
        await machine.renew()
        _, ended = identity.life(machine.certificate.encode())
        assert months.now + 29 * DAY < ended < months.now + 31 * DAY


async def test_after_the_grace_it_joins_anew(machine: Machine, months: Months) -> None:
    months.now += (30 + 365 + 1) * DAY
    with pytest.raises(Refused) as refused:
        await machine.renew()
    assert refused.value.code == "expired"


async def test_an_answer_that_was_lost_costs_nothing_the_old_key_renews_again(machine: Machine) -> None:
    key, certificate = machine.key, machine.certificate
    await machine.renew()
    machine.key, machine.certificate = key, certificate
    await machine.renew()


async def test_a_controller_whose_clock_was_wrong_by_ten_years_renews_once_it_is_right(
    machine: Machine, months: Months
) -> None:
    right = months.now
    months.now = right + 3650 * DAY
    with pytest.raises(Refused, match="join anew"):
        await machine.renew()
    months.now = right
    await machine.renew()
