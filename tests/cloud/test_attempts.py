"""How often a login may be tried, with the time handed in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cloud_sync.controller import attempts
from cloud_sync.controller.errors import TooMany
from cloud_sync.controller.store import Store, open_store


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    store = await open_store(f"sqlite:///{tmp_path / 'controller.db'}", clock)
    yield store
    await store.close()


async def fail(store: Store, subject: str, address: str) -> float:
    """The seconds to wait; 0: the attempt was let in, and failed."""
    try:
        async with store.write() as session:
            await attempts.begin(session, store.now(), subject, address)
    except TooMany as error:
        return error.retry_after
    return 0.0


async def test_pauses_double_up_to_a_bound_and_are_over_with_time(store: Store, clock: Clock) -> None:
    pauses = []
    for _ in range(attempts.OF_ACCOUNT + 12):
        if wait := await fail(store, "user:a", "10.0.0.1"):
            pauses.append(wait)
            clock.now += wait
            assert await fail(store, "user:a", "10.0.0.1") == 0
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == attempts.LONGEST_S
    clock.now += attempts.FORGOTTEN_S + 1
    assert await fail(store, "user:a", "10.0.0.1") == 0
    assert await fail(store, "user:a", "10.0.0.1") == 0


async def test_one_address_cannot_try_many_accounts(store: Store) -> None:
    for number in range(attempts.FROM_ADDRESS):
        assert await fail(store, f"user:{number}", "2001:db8::1") == 0
    assert await fail(store, "user:another", "2001:db8::2") > 0  # of the same network
    assert await fail(store, "user:another", "2001:db9::1") == 0


async def test_a_success_forgives_the_account_and_not_the_address(store: Store) -> None:
    for _ in range(attempts.OF_ACCOUNT):
        assert await fail(store, "user:a", "10.0.0.1") == 0
    async with store.write() as session:
        await attempts.succeeded(session, "user:a", "10.0.0.1")
    assert await fail(store, "user:a", "10.0.0.1") == 0
    for number in range(attempts.FROM_ADDRESS - attempts.OF_ACCOUNT):
        assert await fail(store, f"user:{number}", "10.0.0.1") == 0
    assert await fail(store, "user:last", "10.0.0.1") > 0


async def test_a_clock_that_was_set_back_locks_nobody_out(store: Store, clock: Clock) -> None:
    for _ in range(attempts.OF_ACCOUNT):
        await fail(store, "user:a", "10.0.0.1")
    assert await fail(store, "user:a", "10.0.0.1") > 0
    clock.now -= 10 * 365 * 86400
    assert await fail(store, "user:a", "10.0.0.1") == 0
