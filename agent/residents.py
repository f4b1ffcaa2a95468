"""Which Models this node has, and which are loaded: on demand, within the memory, while they are used."""

from __future__ import annotations

import asyncio
import time

import structlog

from agent.canaries import Canaries
from agent.changes import Changes
from agent.config import Settings
from agent.errors import Conflict, Unavailable
from agent.memory import Memory
from agent.offered import Offered
from agent.pulls import Report, first
from agent.reload import Reload, replace
from agent.replica import Prepared, Replica, prepared
from agent.replicas import Elsewhere, Replicas
from agent.resident import Resident, describe
from agent.room import make_room
from agent.route import Lane
from agent.serving import Serving
from agent.telemetry import Telemetry
from agent.templates import Templates
from models.errors import ModelError, NotOnShelf
from models.manifest import Manifest
from models.shelf import Shelf, Version, split_name

log = structlog.get_logger()

LOOK_S = 1.0  # how often is looked for what nobody has used


class Residents:
    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        shelf: Shelf,
        telemetry: Telemetry,
        templates: Templates,
        memory: Memory,
        report: Report | None,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._shelf = shelf
        self._memory = memory
        self._report = report
        self._replicas = Replicas(settings, serving, telemetry, templates, self._used)
        self._changes = Changes()
        self.canaries = Canaries(
            settings.data_dir / "canaries.json",
            shelf,
            self._changes.whole,
            self._resident,
            self.ready_beside,
        )
        self._all: dict[str, Resident] = {}  # by Model
        self.reload = Reload(settings, serving, shelf, self._changes, memory, self)
        self._coming: set[str] = set()  # Models that are about to be loaded because somebody asks
        self._group: asyncio.TaskGroup | None = None
        self.settled = asyncio.Event()  # the first load has ended, well or badly

    async def run(self) -> None:
        """Offer what is on the shelf, get and load the default Model, unload what nobody uses."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._changes.begin(group)
            group.create_task(self._load_pinned())
            group.create_task(self._begin())
            while True:
                await asyncio.sleep(LOOK_S)
                await self._unload_idle()

    def all(self) -> list[Resident]:
        return list(self._all.values())

    def use(self, resident: Resident) -> None:
        """As if somebody asked for it: it is loaded, where it is not."""
        self._used(resident.route.stable.lanes[0], None)

    def alive(self, within_s: float) -> bool:
        """Whether all supervisors made progress lately."""
        return all(one.alive(within_s) for one in self._all.values())

    async def close(self) -> None:
        await asyncio.gather(*(one.stop() for one in self._all.values()))

    async def load(self, version: Version) -> None:
        """Serve this Version, in place of another one of its Model that is loaded.

        Raises ModelError, OSError, and the former one serves on, where it does not load.
        """
        await self._changes.whole(lambda: self._load(version))

    async def load_named(self, name: str) -> None:
        """`model`: what serves it, or would; `model:version`: that. Raises as `load` does; NotOnShelf."""
        model, version = split_name(name)
        if version is None:
            await self.load(await asyncio.to_thread(self._newest, model))
        else:
            await self.load(await asyncio.to_thread(self._shelf.get, model, version))
        ready, why = self._serving.ready(name)
        if not ready:  # a pinned one, which is tried again and again
            raise ModelError(f"{name} is not well: {why}")

    async def unload(self, name: str) -> None:
        """Free a Model's memory; it is offered still, and loaded again when somebody asks. NotOnShelf."""
        await self._changes.whole(self._resident(name).unload)

    async def offer(self, version: Version) -> None:
        """Let this Version answer for its Model from the next load on. BadFile, OSError."""
        await self._changes.whole(lambda: self._offer(version))

    def wants(self, version: Version) -> bool:
        """Whether what was pulled is to be loaded now: its Model is, or nothing is served at all."""
        resident = self._all.get(version.model)
        if resident and resident.loaded:
            return resident.loaded.offered.version != version.version
        pinned = resident.pinned if resident else self._settings.own(version.model).pinned
        return pinned or self._serving.find("") is None

    async def remove(self, name: str) -> list[Manifest]:
        """Take `model` or `model:version` off the shelf. NotOnShelf, or Conflict where it is loaded."""
        model, version = split_name(name)
        async with self._changes.alone():  # what a swap goes to, or may fall back to, stays
            resident = self._all.get(model)
            live = resident.versions if resident else set()
            if live and (version is None or version in live):
                raise Conflict(
                    f"{model}:{version or min(live)} is being served. To remove it, unload it first, or"
                    f" `autoglm abort` it; to remove another version, name it: {model}:VERSION"
                )
            gone = await asyncio.to_thread(self._shelf.remove, model, version)
            if resident and not resident.loaded:
                await self._reconsider(resident)
            return gone

    def _resident(self, name: str) -> Resident:
        if resident := self._all.get(split_name(name)[0]):
            return resident
        raise NotOnShelf(f"{name or 'this model'} is not on the shelf: see `autoglm models`")

    # The first Model.

    async def _begin(self) -> None:
        await self._load_first()
        self.settled.set()

    async def _load_first(self) -> None:
        def waits(why: str, lasts: bool) -> None:
            self._serving.hold(why)
            if lasts:
                self.settled.set()

        def helped() -> bool:
            return self._serving.find("") is not None

        version = await first(self._settings.model, self._shelf, waits, helped, self._report)
        if version is None or helped():
            return
        try:
            await self.load(await asyncio.to_thread(self._last_served, version))
        except (ModelError, OSError) as error:
            self._serving.hold(f"the model cannot be loaded: {error}")
            if resident := self._all.get(version.model):
                for lane in resident.route.stable.lanes:
                    lane.hold(f"the model cannot be loaded: {error}")

    def _last_served(self, found: Version) -> Version:
        """Of the Model that the settings name: what was pulled or promoted since then."""
        if self._settings.model.endswith(f":{found.version}"):
            return found
        return self._newest(found.model)

    def _newest(self, model: str) -> Version:
        """That is not on trial. NotOnShelf."""
        return self.canaries.stable(self._shelf.get(model))

    # Coming and going.

    async def _offer_shelf(self) -> None:
        seen: set[str] = set()
        for version in await asyncio.to_thread(self._shelf.versions):  # of each Model the newest first
            if version.model in seen | self._all.keys():
                continue
            seen.add(version.model)
            try:
                async with self._changes.alone():
                    await self._offer(await asyncio.to_thread(self.canaries.stable, version))
            except (ModelError, OSError) as error:
                log.warning("a model on the shelf is not offered", model=version.model, error=str(error))
        self._serving.whole = True

    async def _load_pinned(self) -> None:
        """Offer all, then load those that are to be there always, once the default has had its turn."""
        await self._offer_shelf()
        await self.settled.wait()
        for resident in [one for one in self._all.values() if one.pinned]:
            self.use(resident)
        await self.reload.weigh_at_start()

    async def _offer(self, version: Version) -> tuple[Resident, Offered]:
        """Let this Version answer for its Model from the next load on. Raises BadFile, OSError."""
        offered = await asyncio.to_thread(describe, version)
        resident = self._all.get(version.model)
        if resident is None:
            own = self._settings.own(offered.name)
            resident = Resident(offered, self._replica, self._settings.of(offered.name), self._tasks())
            resident.pinned, resident.instances = own.pinned, own.instances
            self._all[offered.name] = resident
            self._serving.open(resident.route)
            await self.canaries.plan(resident)
        elif resident.loaded is None and resident.route.model.version != offered.version:
            resident.offer(offered)
            await self.canaries.keep(resident)
        return resident, offered

    def _replica(self, offered: Offered, elsewhere: Elsewhere) -> Replica:
        return self._replicas.make(offered, elsewhere, self._tasks())

    async def _reconsider(self, resident: Resident) -> None:
        """Versions of a Model at rest were removed."""
        try:
            await self._offer(await asyncio.to_thread(self._newest, resident.model))
        except (ModelError, OSError):
            del self._all[resident.model]
            self._serving.shut(resident.route)
            await resident.stop()

    def _used(self, lane: Lane, keep_alive: float | None) -> None:
        resident = self._all[lane.model.name]
        resident.used = time.monotonic()
        if keep_alive is not None:
            resident.keep_alive = keep_alive
        if resident.rests(lane) and resident.model not in self._coming:
            self._coming.add(resident.model)
            self._tasks().create_task(self._load_for_use(resident))

    async def _load_for_use(self, resident: Resident) -> None:
        why = "see the agent's log"
        try:
            async with self._changes.alone():
                if resident.loaded is None:
                    model = resident.route.model
                    version = await asyncio.to_thread(self._shelf.get, model.name, model.version)
                    await self._load(version, asked_by_name=True)
                else:
                    await self.canaries.load(resident)
        except Exception as error:  # noqa: BLE001 - whoever asked for it is told
            log.error("a model that is asked for cannot be loaded", model=resident.model, error=str(error))
            why = str(error)
        finally:
            self._coming.discard(resident.model)
            for lane in filter(resident.rests, resident.route.lanes()):
                lane.abandon(Unavailable(f"the model cannot be loaded: {why}", retry_after=10))

    async def _load(self, version: Version, asked_by_name: bool = False) -> None:
        """Nothing else changes meanwhile."""
        resident, offered = await self._offer(version)
        if self._serving.find("") is None and not (asked_by_name and offered.makes_tensors):
            self._serving.prefer(resident.route)
            resident.pinned = True
        new = await prepared(self._settings, offered, self._memory)
        if resident.loaded is None:
            await make_room(new, self._memory, self._all.values(), workers=resident.instances)
            if not await resident.load(new) and not resident.pinned:  # a pinned one is tried again
                why = resident.route.stable.ready()[1]
                await resident.unload()
                raise ModelError(f"{version.model} does not load: {why}")
        elif resident.route.find(version.version) in resident.route.canaries:
            await self.canaries.make_stable(resident, version.version)
        elif resident.loaded.offered.version != version.version:
            await replace(resident, new, self._memory, self._all.values())
            await self.canaries.keep(resident)
        await self.canaries.load(resident)

    async def ready_beside(self, resident: Resident, offered: Offered) -> Prepared:
        """A canary, beside its Model's stable Version. NoMemory."""
        new = await prepared(self._settings, offered, self._memory)
        await make_room(new, self._memory, self._all.values(), beside=resident)
        return new

    async def _unload_idle(self) -> None:
        for resident in [one for one in self._all.values() if one.is_over(time.monotonic())]:
            async with self._changes.alone():
                if resident.is_over(time.monotonic()):
                    log.info("unloaded: nobody used it", model=resident.model, for_s=resident.keep_alive)
                    await resident.unload()

    def _tasks(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("run() was not called")
        return self._group
