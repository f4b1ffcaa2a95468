"""Follows the Desired document: keeps it, applies it, watches what it does, and takes it back if need be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from cloud_sync import twin_file
from cloud_sync.host import Host
from cloud_sync.messages import Desired, Item
from cloud_sync.settings import LINK, changed, sorted_out
from cloud_sync.twin import Twin

QUIET_S = 3.0  # for which all must be well
LOOK_S = 0.25
AGAIN_S, LONGEST_PAUSE_S = 5.0, 300.0  # how soon is looked again at what is not in force
CONTROLLER = "controller"  # a part that is watched; the others are the host's
log = structlog.get_logger()


class Follower:
    """`news` is set when there is something to report. `contact`: when the controller was last heard."""

    def __init__(self, folder: Path, host: Host, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._host, self._clock = folder, host, clock
        self.twin = Twin()
        self._brought: Desired | None = None  # the newest when its application began
        self.news = asyncio.Event()
        self.contact: float | None = None
        self._work = asyncio.Event()
        self._changes = asyncio.Lock()
        self.trouble = ""  # with the disk

    async def start(self) -> None:
        """Of the link. The start of the agent was counted before. OSError."""
        self._keep_in_mind(await asyncio.to_thread(twin_file.read, self._folder))
        self._brought = self.twin.newest
        await self._tell_taken_back()  # as it may have been at the start
        self._work.set()

    async def heard(self, desired: Desired) -> None:
        """One that is newer than what is known is kept, and on trial. OSError."""

        def change(twin: Twin) -> Twin | None:
            names = changed(twin.settings, desired.settings)
            watch = {*self._host.watched(names), *(twin.trial.watch if twin.trial else ())}
            if names & LINK:  # it came by the link: so there was contact just before
                watch.add(CONTROLLER)
            return twin.heard(desired, sorted(watch))

        if await self._change(change, self.twin.newest):
            log.info("desired", epoch=desired.epoch, generation=desired.generation)
            self._work.set()

    async def run(self) -> None:
        """A newer document ends whatever is done for the former one."""
        while True:
            await self._work.wait()
            self._work.clear()
            async with asyncio.TaskGroup() as group:
                tasks = {group.create_task(self._bring()), group.create_task(self._newer())}
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()

    async def _newer(self) -> None:
        await self._work.wait()

    async def _bring(self) -> None:
        """The active document into force, as often as that takes."""
        pause, self._brought = AGAIN_S, self.twin.newest
        while True:
            try:
                items = await self._apply()
                states = {item.state for item in items.values()}
                if "needs_restart" in states:
                    return self._host.restart()
                if self.twin.trial is not None:
                    await self._try(items)
                    if self.twin.trial is None or "pending" not in states:
                        continue
            except OSError as error:
                log.error("what the cloud has set cannot be kept", error=str(error))
                states = {"failed"}
            if not states & {"pending", "failed"}:
                return await self._newer()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _apply(self) -> dict[str, Item]:
        """What became of each setting that this release knows."""
        settings, refused = sorted_out(self.twin.settings)
        unknown = {name: Item(state="failed", reason=why[:1000]) for name, why in refused.items()}
        items: dict[str, Item] = {}
        before = self.twin.observed
        async for items in self._host.apply(settings):
            if not _failed(items) and self._is_newest():
                self._keep_in_mind(self.twin.applied(items | unknown))
        if not (self.twin.trial and _failed(items)):  # which is taken back now, and that is told
            await self._bring_about(lambda twin: twin.applied(items | unknown))
        if self.twin.observed != before and self._is_newest():
            states = {name: item.state for name, item in self.twin.items.items()}
            self._host.happened("desired_applied", generation=self.twin.observed, items=states)
        return items

    async def _try(self, items: dict[str, Item]) -> None:
        """The document on trial, until it has passed or failed; or all is well, and some of it is pending."""
        if failed := _failed(items):
            return await self._take_back(f"{failed[0]}: {items[failed[0]].reason}")
        begun = self._clock()
        well_since: float | None = None
        while self.twin.trial is not None:
            now = self._clock()
            trouble = self._trouble(self.twin.trial.watch, begun)
            well_since = None if trouble else now if well_since is None else well_since
            if well_since is not None and now - well_since >= QUIET_S:
                if not any(item.state == "pending" for item in items.values()):
                    await self._bring_about(Twin.passed)
                return
            if now > begun + self._host.trial_s():
                return await self._take_back(trouble or "it was not well for long enough")
            await asyncio.sleep(LOOK_S)

    def _trouble(self, watch: list[str], since: float) -> str:
        """ "": all is well."""
        for part in watch:
            if part != CONTROLLER:
                if trouble := self._host.trouble(part):
                    return trouble
            elif self.contact is None or self.contact < since:
                return "the controller could not be reached with it"
        return ""

    async def _take_back(self, why: str) -> None:
        log.error("what the cloud has set is taken back", reason=why)
        await self._bring_about(lambda twin: twin.failed(why))
        await self._tell_taken_back()

    async def _tell_taken_back(self) -> None:
        if why := self.twin.untold:
            self._host.happened("desired_taken_back", generation=self.twin.observed, reason=why)
            await self._bring_about(lambda twin: twin.model_copy(update={"untold": ""}))

    def _is_newest(self) -> bool:
        """Whether what is being applied is; else it has nothing more to say, and is about to be ended."""
        return self.twin.newest == self._brought

    async def _bring_about(self, change: Callable[[Twin], Twin]) -> None:
        """Of what is being applied. OSError."""
        await self._change(change, self._brought)

    async def _change(self, change: Callable[[Twin], Twin | None], asked: Desired | None) -> bool:
        """If `asked` is the newest still. One at a time, and whole: it goes on where the caller is cancelled.

        OSError.
        """

        async def work() -> bool:
            async with self._changes:
                twin = change(self.twin) if self.twin.newest == asked else None
                if twin is None:
                    return False
                try:
                    await asyncio.to_thread(twin_file.write, self._folder, twin)
                except OSError as error:
                    self.trouble = f"what is set cannot be kept: {error}"
                    self.news.set()
                    raise
                self.trouble = ""
                self._keep_in_mind(twin)
                return True

        return await asyncio.shield(asyncio.create_task(work()))

    def _keep_in_mind(self, twin: Twin) -> None:
        self.twin = twin
        self.news.set()


def _failed(items: dict[str, Item]) -> list[str]:
    return [name for name, item in items.items() if item.state == "failed"]
