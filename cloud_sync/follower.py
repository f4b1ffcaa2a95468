"""Follows the Desired document: keeps it, applies it, watches what it does, and takes it back if need be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from cloud_sync import twin_file
from cloud_sync.host import Host
from cloud_sync.messages import Desired
from cloud_sync.twin import Twin

TRIAL_S = 120.0  # within which the node must be as well as it was
QUIET_S = 3.0  # for which it must be well
LOOK_S = 0.25
DISK_S = 5.0  # how soon again where the disk does not take what is to be kept
log = structlog.get_logger()


class Follower:
    """`news` is set when there is something to report. `contact`: when the controller was last heard."""

    def __init__(self, folder: Path, host: Host, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._host, self._clock = folder, host, clock
        self.twin = Twin()
        self.news = asyncio.Event()
        self._work = asyncio.Event()
        self._changing = asyncio.Lock()
        self.contact: float | None = None
        self.trouble = ""  # with the disk
        self._was_ready = False

    async def start(self) -> None:
        """Of the agent. OSError."""
        self._keep_in_mind(await asyncio.to_thread(twin_file.read, self._folder))
        if self.twin.trial is not None:
            self._was_ready = True  # it was, or the trial would not have begun to need a restart
            await self._change(Twin.started)
            if self.twin.trial is None:
                self._tell_taken_back(next((item.reason for item in self.twin.items.values()), ""))
        self._work.set()

    async def heard(self, desired: Desired) -> None:
        """One that is newer than what is known is kept, and on trial. OSError."""
        before = self._was_ready if self.twin.trial else self._host.ready()[0]
        if await self._change(lambda twin: twin.heard(desired, contact=self.contact is not None)):
            log.info("desired", epoch=desired.epoch, generation=desired.generation)
            self._was_ready = before
            self._work.set()

    async def run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._apply()
                if self.twin.trial is not None:
                    await self._watch()
            except OSError as error:
                log.error(self.trouble or str(error), again_in_s=DISK_S)
                await asyncio.sleep(DISK_S)
                self._work.set()

    async def _apply(self) -> None:
        applied = self.twin.active
        items = await self._host.apply(self.twin.settings)
        before = self.twin.observed
        await self._change(
            lambda twin: twin.applied(items) if applied == twin.active == twin.newest else None
        )
        if self.twin.observed != before:
            states = {name: item.state for name, item in items.items()}
            self._host.happened("desired_applied", generation=self.twin.observed, items=states)
        if any(item.state == "needs_restart" for item in items.values()):
            self._host.restart()

    async def _watch(self) -> None:
        """The document on trial, until it has passed, has failed, or a newer one came."""
        until = self._clock() + TRIAL_S
        well_since: float | None = None
        begun = self._clock()
        tried = self.twin.active
        while not self._work.is_set():
            trial, now = self.twin.trial, self._clock()
            if trial is None or any(one.state == "needs_restart" for one in self.twin.items.values()):
                return
            ready, reason = self._host.ready()
            heard = not trial.contact or (self.contact is not None and self.contact >= begun)
            well = heard and (ready or not self._was_ready)
            well_since = (well_since or now) if well else None
            if well_since is not None and now - well_since >= QUIET_S:
                await self._change(lambda twin: twin.passed() if twin.active == tried else None)
                return
            if now > until:
                why = reason if heard else "the controller could not be reached with it"
                return await self._take_back(tried, why)
            await asyncio.sleep(LOOK_S)

    async def _take_back(self, tried: Desired | None, why: str) -> None:
        log.error("desired is taken back", generation=self.twin.observed, reason=why)
        if await self._change(lambda twin: twin.failed(why) if twin.active == tried else None):
            self._tell_taken_back(why)
        self._work.set()

    def _tell_taken_back(self, why: str) -> None:
        self._host.happened("desired_taken_back", generation=self.twin.observed, reason=why)

    async def _change(self, change: Callable[[Twin], Twin | None]) -> bool:
        """One at a time, each of what the former left, and whole though the caller is cancelled.

        Whether there was one to make. OSError.
        """
        return await asyncio.shield(asyncio.create_task(self._write(change)))

    async def _write(self, change: Callable[[Twin], Twin | None]) -> bool:
        async with self._changing:
            twin = change(self.twin)
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

    def _keep_in_mind(self, twin: Twin) -> None:
        self.twin = twin
        self.news.set()
