"""Documents come while others are taken into force and while the disk is slow: none is lost or undone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cloud_sync import twin_file
from cloud_sync.follower import Follower
from cloud_sync.host import Facts
from cloud_sync.messages import Desired, Item


class Host:
    """One that takes everything at once; `free`: it may."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.taken: list[dict[str, Any]] = []

    def ready(self) -> tuple[bool, str]:
        return True, ""

    def facts(self) -> Facts:
        return Facts("1", 0.0)

    async def apply(self, settings: dict[str, Any]) -> dict[str, Item]:
        self.taken.append(settings)
        await self.free.wait()
        return {name: Item(state="applied") for name in settings}

    def happened(self, kind: str, **body: Any) -> None:
        pass

    def restart(self) -> None:
        raise AssertionError("nothing needs it")


def desired(generation: int) -> Desired:
    return Desired(epoch=1, generation=generation, settings={"priority": generation % 10})


async def test_what_is_in_force_never_goes_back_however_fast_documents_come(tmp_path: Path) -> None:
    follower = Follower(tmp_path, Host())
    await follower.start()
    running = asyncio.create_task(follower.run())
    observed = []
    for generation in range(1, 41):
        await follower.heard(desired(generation))
        assert follower.twin.newest == desired(generation)
        for _ in range(generation % 5):
            observed.append(follower.twin.observed)
            await asyncio.sleep(0.002)
    while follower.twin.observed != 40:
        await asyncio.sleep(0.01)
        observed.append(follower.twin.observed)
    assert observed == sorted(observed)
    running.cancel()
    assert twin_file.read(tmp_path) == follower.twin


async def test_a_document_is_not_observed_by_what_was_done_for_the_one_before(tmp_path: Path) -> None:
    host = Host()
    follower = Follower(tmp_path, host)
    await follower.start()
    host.free.clear()
    running = asyncio.create_task(follower.run())
    await follower.heard(desired(1))
    await follower.heard(desired(2))
    assert follower.twin.observed == 0
    host.free.set()
    while follower.twin.observed != 2:
        follower.news.clear()
        await follower.news.wait()
    assert host.taken[-1] == {"priority": 2}
    running.cancel()
