"""How often a login may be tried: of one account, and from one address.

An attempt counts as failed until it has succeeded, so that many at once are no way round.
"""

from __future__ import annotations

import ipaddress

from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_sync.controller.errors import TooMany
from cloud_sync.controller.store.accounts import Attempt

OF_ACCOUNT, FROM_ADDRESS = 5, 50  # failures without a pause; each more doubles it
LONGEST_S = 300.0
FORGOTTEN_S = 3600.0
SKEW_S = 60.0  # between copies of the controller; what is later than that was before a clock was set back


async def begin(session: AsyncSession, now: float, subject: str, address: str) -> None:
    """TooMany."""
    await session.execute(delete(Attempt).where(Attempt.last_at < now - FORGOTTEN_S))
    for whose, free in ((_account(subject), OF_ACCOUNT), (_address(address), FROM_ADDRESS)):
        row = await _row(session, whose, now)
        if row.failures >= free:
            pause = min(LONGEST_S, 2.0 ** (row.failures - free))
            if -SKEW_S < now - row.last_at < pause:
                wait = row.last_at + pause - now
                raise TooMany("slow_down", "too many logins failed: wait before the next", wait)
        row.failures, row.last_at = row.failures + 1, now
    await session.flush()


async def succeeded(session: AsyncSession, subject: str, address: str) -> None:
    """Of the account all is forgotten; of the address this one alone: others may be guessed from there."""
    await session.execute(delete(Attempt).where(Attempt.whose == _account(subject)))
    if row := await session.get(Attempt, _address(address), with_for_update=True):
        row.failures = max(0, row.failures - 1)


async def _row(session: AsyncSession, whose: str, now: float) -> Attempt:
    """Made where it is missing, and held: two copies of the controller may come at once."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    made = insert(Attempt).values(whose=whose, failures=0, last_at=now)
    await session.execute(made.on_conflict_do_nothing())
    return await session.get_one(Attempt, whose, with_for_update=True)


def _account(subject: str) -> str:
    return f"account {subject}"


def _address(address: str) -> str:
    """Of IPv6 the network: a host has a whole one to itself."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return f"address {address}"
    if found.version == 6 and found.ipv4_mapped is None:
        return f"address {ipaddress.ip_network((found, 64), strict=False)}"
    return f"address {found}"
