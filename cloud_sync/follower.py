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
log = structlog.get_logger()


class Follower:
    """`news` is set when there is something to report. `contact`: when the controller was last heard."""

    def __init__(self, folder: Path, host: Host, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._host, self._clock = folder, host, clock
        self.twin = Twin()
        self.news = asyncio.Event()
        self._work = asyncio.Event()
        self.contact: float | None = None
        self._was_ready = False

    async def start(self) -> None:
        """Of the agent. OSError."""
        self._keep_in_mind(await asyncio.to_thread(twin_file.read, self._folder))
        if self.twin.trial is not None:
            self._was_ready = True  # it was, or the trial would not have begun to need a restart
            await self._keep(self.twin.started())
            if self.twin.trial is None:
                self._taken_back(next((item.reason for item in self.twin.items.values()), ""))
        self._work.set()

    async def heard(self, desired: Desired) -> None:
        """One that is newer than what is known is kept, and on trial. OSError."""
        after = self.twin.heard(desired, contact=self.contact is not None)
        if after is None:
            return
        log.info("desired", epoch=desired.epoch, generation=desired.generation)
        if self.twin.trial is None:
            self._was_ready, _ = self._host.ready()
        await self._keep(after)
        self._work.set()

    async def run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            await self._apply()
            if self.twin.trial is not None:
                await self._watch()

    async def _apply(self) -> None:
        items = await self._host.apply(self.twin.settings)
        if self.twin.active == self.twin.newest:
            before = self.twin.observed
            await self._keep(self.twin.applied(items))
            if self.twin.observed != before:
                self._host.happened(
                    "desired_applied",
                    generation=self.twin.observed,
                    items={name: item.state for name, item in items.items()},
                )
        if any(item.state == "needs_restart" for item in items.values()):
            self._host.restart()

    async def _watch(self) -> None:
        """The document on trial, until it has passed, has failed, or a newer one came."""
        until = self._clock() + TRIAL_S
        well_since: float | None = None
        begun = self._clock()
        while not self._work.is_set():
            trial, now = self.twin.trial, self._clock()
            if trial is None or any(one.state == "needs_restart" for one in self.twin.items.values()):
                return
            ready, reason = self._host.ready()
            heard = not trial.contact or (self.contact is not None and self.contact >= begun)
            well = heard and (ready or not self._was_ready)
            well_since = (well_since or now) if well else None
            if well_since is not None and now - well_since >= QUIET_S:
                return await self._keep(self.twin.passed())
            if now > until:
                why = reason if heard else "the controller could not be reached with it"
                log.error("desired is taken back", generation=self.twin.observed, reason=why)
                await self._keep(self.twin.failed(why))
                self._taken_back(why)
                self._work.set()
                return
            await asyncio.sleep(LOOK_S)

    def _taken_back(self, why: str) -> None:
        self._host.happened("desired_taken_back", generation=self.twin.observed, reason=why)

    async def _keep(self, twin: Twin) -> None:
        await asyncio.to_thread(twin_file.write, self._folder, twin)
        self._keep_in_mind(twin)

    def _keep_in_mind(self, twin: Twin) -> None:
        self.twin = twin
        self.news.set()
