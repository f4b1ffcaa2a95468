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
    new: Prepared, residents: Iterable[Resident], *, beside: Resident | None = None, instead: int = 0
) -> bool:
    """Unload idle Models until there is memory enough. NoMemory, with the numbers; then nothing was unloaded.

    `beside` is not unloaded. False: there is only enough once `instead` bytes, which it has, are free.
    """
    now = time.monotonic()
    idle = [one for one in residents if one.loaded and not one.pinned and one.idle and one is not beside]
    idle.sort(key=lambda one: one.idle_s(now))
    there = memory.available()
    if there + sum(one.need for one in idle) + instead < new.need:
        raise memory.NoMemory(new.offered.name, new.need, there)
    while idle and memory.available() < new.need:
        victim = idle.pop()
        log.info("unloaded to make room", model=victim.model, wanted=new.offered.name)
        await victim.unload()
    return memory.available() >= new.need
