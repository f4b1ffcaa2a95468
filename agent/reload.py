"""Other settings of Models while they serve: what is loaded becomes as it is set, and no caller notices.

A Worker's settings are what it was started with, so others take another Worker: beside the former one, or
after it where memory is short, as with another Version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from agent.canaries import Canaries, Trial
from agent.changes import Changes
from agent.config import Settings
from agent.errors import AgentError
from agent.memory import Memory, NoMemory
from agent.offered import Offered
from agent.replica import Prepared, asked, prepared
from agent.resident import Resident
from agent.room import make_room
from agent.serving import Serving
from models.errors import ModelError
from models.shelf import Shelf, Version
from models.sources import known, pull

if TYPE_CHECKING:
    from agent.route import Live

log = structlog.get_logger()


class Models(Protocol):
    """What of the residents is needed here."""

    canaries: Canaries
    settled: asyncio.Event

    def all(self) -> list[Resident]: ...
    def use(self, resident: Resident) -> None: ...
    async def load(self, version: Version) -> None: ...
    async def load_named(self, name: str) -> None: ...
    async def ready_beside(self, resident: Resident, offered: Offered) -> Prepared: ...


class Reload:
    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        shelf: Shelf,
        changes: Changes,
        memory: Memory,
        models: Models,
    ) -> None:
        self._settings, self._serving, self._shelf = settings, serving, shelf
        self._changes, self._memory, self._models = changes, memory, models
        self._default = settings.model  # the source that the default was, or is being, made from

    async def settle(self, weighed: Mapping[str, Iterable[str]]) -> None:
        """Let all Models be as the settings say. ModelError, AgentError, OSError: one of them cannot.

        `weighed`: Versions that had a weight by the settings before, by Model. It may be given up in between
        and begun again: what is as it should be is left alone.
        """
        await self._models.settled.wait()
        if self._settings.model != self._default:
            await self._change_default()
        for resident in self._models.all():
            await self._settle(resident)
            await self._weigh(resident, weighed.get(resident.model, ()))

    async def weigh_at_start(self) -> None:
        """Let Versions have the parts of the traffic that are set. One that fails is logged."""
        for resident in self._models.all():
            try:
                await self._weigh(resident, ())
            except (ModelError, AgentError, OSError) as error:
                log.error("a version has no part of the traffic", model=resident.model, error=str(error))

    async def _change_default(self) -> None:
        """The former one serves until the other one can."""
        source = self._settings.model
        version = await asyncio.to_thread(known, source, self._shelf)
        if version is None:
            log.info("the model is being pulled", source=source)
            version = await pull(source, self._shelf, report=lambda _: None)
        former = self._of(self._serving.find(""))
        try:
            await self._models.load(version)
        except NoMemory:
            if former is None or former.model == version.model:
                raise
            await self._load_after(former, version)
        new = next(one for one in self._models.all() if one.model == version.model)
        self._serving.prefer(new.route)
        self._default = source

    async def _load_after(self, former: Resident, version: Version) -> None:
        """In the place of the former default, whose memory it needs."""
        log.warning("the default model goes before the other one comes: memory is short", model=former.model)
        await self._changes.whole(former.unload)
        try:
            await self._models.load(version)
        except BaseException:
            self._models.use(former)
            raise

    def _of(self, offered: Offered | None) -> Resident | None:
        return next((one for one in self._models.all() if offered and one.model == offered.name), None)

    async def _settle(self, resident: Resident) -> None:
        own, default = self._settings.own(resident.model), self._of(self._serving.find(""))
        resident.keep(self._settings.of(resident.model).keep_alive)
        resident.plan_workers(own.instances)
        pinned = own.pinned or resident is default
        if pinned and not resident.pinned and not resident.loaded:
            await self._models.load_named(resident.model)
        resident.pinned = pinned  # one that was unloaded by command stays so
        for live in resident.route.live:
            if not self._is_asked(resident, live):
                await self._changes.whole(partial(self._renew, resident, live))

    def _is_asked(self, resident: Resident, live: Live) -> bool:
        return resident.is_asked(live, asked(self._settings, live.model))

    async def _renew(self, resident: Resident, live: Live) -> None:
        """Nothing else changes meanwhile."""
        if live not in resident.route.live or self._is_asked(resident, live):
            return
        log.info("new Workers, for other settings", model=resident.model, version=live.model.version)
        if live in resident.route.canaries:
            new = await self._models.ready_beside(resident, live.model)
            await resident.reload_canary(live, new)
        else:
            new = await prepared(self._settings, live.model, self._memory)
            await replace(resident, new, self._memory, self._models.all())

    async def _weigh(self, resident: Resident, before: Iterable[str]) -> None:
        """Its canaries, where the settings say which it has: those that shrink first."""
        weights = self._settings.own(resident.model).weights or {}
        now = {live.model.version: live.weight for live in resident.route.canaries}
        wanted = {**dict.fromkeys(before, 0.0), **weights}
        wanted.pop(resident.route.model.version, None)  # it was promoted: it has the rest
        failed: list[Exception] = []
        for version, weight in sorted(wanted.items(), key=lambda one: one[1] - now.get(one[0], 0.0)):
            try:
                await self._give(f"{resident.model}:{version}", weight, now.get(version, 0.0))
            except (ModelError, AgentError, OSError) as error:  # the others have theirs
                failed.append(error)
        if failed:
            raise failed[0]

    async def _give(self, name: str, weight: float, now: float) -> None:
        if weight and weight != now:
            await self._models.canaries.begin(name, Trial(weight))
        elif now and not weight:
            await self._models.canaries.abort(name)


async def replace(resident: Resident, new: Prepared, memory: Memory, all_: Iterable[Resident]) -> None:
    """The Workers of the stable Version by new ones. ModelError, and the former ones serve on."""
    if resident.loaded is None:
        raise RuntimeError("nothing is loaded")
    instead = resident.loaded.need * len(resident.route.stable.lanes)
    room = await make_room(new, memory, all_, workers=resident.instances, beside=resident, instead=instead)
    await resident.swap(new, beside=room)
