"""How a document comes into force and is tried: with a host of the test's own and a faster clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloud_sync import twin_file
from cloud_sync.follower import Follower
from cloud_sync.host import Address, Facts
from cloud_sync.messages import Desired, Item
from cloud_sync.twin import Twin

FASTER = 30


class Fake:
    """A host whose `part` has the trouble that the settings name, and that hangs where they say so."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.restarts = 0
        self.events: list[tuple[str, int]] = []

    def ready(self) -> tuple[bool, str]:
        return True, ""

    def happened(self, kind: str, **body: Any) -> None:
        self.events.append((kind, body["generation"]))

    def facts(self) -> Facts:
        return Facts("0.1.0", 0.0)

    def address(self) -> Address:
        return Address()

    def watched(self, names: set[str]) -> list[str]:
        return [] if self.trouble("part") else ["part"]

    def trouble(self, part: str) -> str:
        return "it is unwell" if self.settings.get("model") == "unwell" else ""

    def trial_s(self) -> float:
        return 30.0

    async def apply(self, settings: dict[str, Any]) -> AsyncIterator[dict[str, Item]]:
        yield dict.fromkeys(settings, Item(state="pending"))
        self.settings = settings
        if settings.get("model") == "hangs":
            await asyncio.Event().wait()
        yield dict.fromkeys(settings, Item(state="applied"))

    def restart(self) -> None:
        self.restarts += 1


@asynccontextmanager
async def following(folder: Path, host: Fake) -> AsyncIterator[Follower]:
    follower = Follower(folder, host, lambda: FASTER * time.monotonic())
    await follower.start()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run())
        yield follower
        task.cancel()


def desired(generation: int, **settings: Any) -> Desired:
    return Desired(epoch=1, generation=generation, settings=settings)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - of many kinds
            await asyncio.sleep(0.01)


async def test_what_was_well_before_a_trial_is_watched_in_the_next_one_too(tmp_path: Path) -> None:
    host = Fake()
    async with following(tmp_path, host) as follower:
        await follower.heard(desired(1, model="well"))
        await until(lambda: follower.twin.good == desired(1, model="well"))
        await follower.heard(desired(2, model="unwell"))
        await until(lambda: host.settings == {"model": "unwell"})
        await follower.heard(desired(3, model="unwell", priority=1))
        await until(lambda: follower.twin.trial is None)
        assert follower.twin.good == desired(1, model="well")
        assert {one.state for one in follower.twin.items.values()} == {"rolled_back"}
        await until(lambda: host.settings == {"model": "well"})
    assert host.events[-1] == ("desired_taken_back", 3)
    assert twin_file.read(tmp_path) == follower.twin


async def test_a_newer_document_ends_the_application_of_one_that_hangs(tmp_path: Path) -> None:
    host = Fake()
    async with following(tmp_path, host) as follower:
        await follower.heard(desired(1, model="hangs"))
        await until(lambda: host.settings == {"model": "hangs"})
        assert follower.twin.observed == 0
        assert follower.twin.items == {"model": Item(state="pending")}
        await follower.heard(desired(2, model="well"))
        await until(lambda: follower.twin.good == desired(2, model="well"))
        assert follower.twin.observed == 2
        assert follower.twin.items == {"model": Item(state="applied")}


async def test_a_document_does_not_suffer_from_what_the_one_before_it_did(tmp_path: Path) -> None:
    """That one fails in the very moment in which its mend is heard."""

    class Late(Fake):
        async def apply(self, settings: dict[str, Any]) -> AsyncIterator[dict[str, Item]]:
            if settings.get("model") == "broken":
                while follower.twin.newest == desired(1, model="broken"):  # noqa: ASYNC110 - no sooner, no later
                    await asyncio.sleep(0)
                yield {"model": Item(state="failed", reason="it is broken")}
            else:
                yield dict.fromkeys(settings, Item(state="applied"))

    host = Late()
    async with following(tmp_path, host) as follower:
        await follower.heard(desired(1, model="broken"))
        await asyncio.sleep(0.05)
        await follower.heard(desired(2, model="mended"))
        await until(lambda: follower.twin.trial is None)
        assert follower.twin.good == desired(2, model="mended")
        assert follower.twin.items == {"model": Item(state="applied")}
    assert host.events == [("desired_applied", 2)]


async def test_what_is_pending_is_looked_at_again_until_it_is_in_force(tmp_path: Path) -> None:
    class Slow(Fake):
        tries = 0

        async def apply(self, settings: dict[str, Any]) -> AsyncIterator[dict[str, Item]]:
            self.tries += bool(settings)
            state = "pending" if self.tries == 1 else "applied"
            yield dict.fromkeys(settings, Item(state=state, reason="" if self.tries > 1 else "it is coming"))

    host = Slow()
    async with following(tmp_path, host) as follower:
        await follower.heard(desired(1, model="late"))
        await until(lambda: follower.twin.items == {"model": Item(state="pending", reason="it is coming")})
        assert follower.twin.trial is not None
        await until(lambda: follower.twin.good == desired(1, model="late"))
        assert follower.twin.observed == 1


async def test_what_was_taken_back_at_the_start_is_among_the_events_once(tmp_path: Path) -> None:
    twin = Twin().heard(desired(1, model="deadly"), [])
    assert twin is not None
    twin_file.write(tmp_path, twin)
    assert [twin_file.begin(tmp_path) for _ in range(3)] == [False, False, True]
    for events in ([("desired_taken_back", 1)], []):
        host = Fake()
        async with following(tmp_path, host):
            await asyncio.sleep(0)
        assert host.events == events


async def test_what_is_in_force_never_goes_back_however_fast_documents_come(tmp_path: Path) -> None:
    follower = Follower(tmp_path, Fake())
    await follower.start()
    running = asyncio.create_task(follower.run())
    observed = []
    for generation in range(1, 41):
        one = Desired(epoch=1, generation=generation, settings={"priority": generation % 10})
        await follower.heard(one)
        assert follower.twin.newest == one
        for _ in range(generation % 5):
            observed.append(follower.twin.observed)
            await asyncio.sleep(0.002)
    while follower.twin.observed != 40:
        await asyncio.sleep(0.01)
        observed.append(follower.twin.observed)
    assert observed == sorted(observed)
    running.cancel()
