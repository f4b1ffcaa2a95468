"""Room in the memory for another Version: the Models that were idle for longest give way."""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog

from agent import memory
from agent.replica import Prepared
from agent.resident import Resident

log = structlog.get_logger()


async def make_room(
    new: Prepared,
    residents: Iterable[Resident],
    *,
    workers: int = 1,
    beside: Resident | None = None,
    instead: int = 0,
) -> bool:
    """Unload idle Models until there is memory for so many Workers. NoMemory, with the numbers, unloads none.

    `beside` is not unloaded. False: there is only enough once `instead` bytes, which it has, are free.
    """
    now = time.monotonic()
    idle = [one for one in residents if one.loaded and not one.pinned and one.idle and one is not beside]
    idle.sort(key=lambda one: one.idle_s(now))
    need, there = new.need * workers, memory.available()
    if there + sum(one.need for one in idle) + instead < need:
        raise memory.NoMemory(new.offered.name, need, there)
    while idle and memory.available() < need:
        victim = idle.pop()
        if victim.idle:  # still
            log.info("unloaded to make room", model=victim.model, wanted=new.offered.name)
            await victim.unload()
    return memory.available() >= need
