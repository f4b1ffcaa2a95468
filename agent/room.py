"""Room in the memory for another Version: the Models that were idle for longest give way."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

import structlog

from agent.memory import Memory, NoMemory
from agent.replica import Prepared
from agent.space import Space

log = structlog.get_logger()


class Occupant(Protocol):
    """What has memory, and may give it back: see `Resident`."""

    @property
    def model(self) -> str: ...
    @property
    def loaded(self) -> object | None: ...
    @property
    def pinned(self) -> bool: ...
    @property
    def idle(self) -> bool: ...
    @property
    def need(self) -> Space: ...
    def idle_s(self, now: float) -> float: ...
    async def unload(self) -> None: ...


async def make_room(
    new: Prepared,
    memory: Memory,
    residents: Iterable[Occupant],
    *,
    workers: int = 1,
    beside: Occupant | None = None,
    instead: Space | None = None,
) -> bool:
    """Unload idle Models until there is memory for so many Workers. NoMemory, with the numbers, unloads none.

    `beside` is not unloaded. False: there is only enough once what it has, `instead`, is free.
    """
    now = time.monotonic()
    idle = [one for one in residents if one.loaded and not one.pinned and one.idle and one is not beside]
    idle.sort(key=lambda one: one.idle_s(now), reverse=True)
    need, there = new.need * workers, await memory.available()
    if need.without(sum((one.need for one in idle), there + (instead or Space()))):
        raise NoMemory(new.offered.name, need, there)
    for victim in idle:
        short = need.without(await memory.available())
        if not short:
            break
        if victim.need.eases(short) and victim.idle:  # still
            log.info("unloaded to make room", model=victim.model, wanted=new.offered.name)
            await victim.unload()
    return not need.without(await memory.available())
