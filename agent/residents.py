"""Which Models this node has, and which are loaded: on demand, within the memory, while they are used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import structlog

from agent import device, memory
from agent.config import Settings
from agent.errors import Conflict, Unavailable
from agent.limits import Limits
from agent.offered import Offered
from agent.pulls import Report, first, started
from agent.resident import Prepared, Resident, describe
from agent.serving import Lane, Serving
from agent.supervisor import Launch
from agent.telemetry import ModelTelemetry, Telemetry
from agent.templates import Templates
from agent.tensor_lane import TensorLane
from agent.text_lane import TextLane
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
        report: Report | None,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._shelf = shelf
        self._telemetry = telemetry
        self._templates = templates
        self._report = report
        self._limits = Limits(settings)
        self._all: dict[str, Resident] = {}  # by Model
        self._coming: set[str] = set()  # Models that are about to be loaded because somebody asks
        self._changing = asyncio.Lock()  # what one load needs of the memory must not be promised to another
        self._group: asyncio.TaskGroup | None = None
        self.settled = asyncio.Event()  # the first load has ended, well or badly

    async def run(self) -> None:
        """Offer what is on the shelf, get and load the default Model, unload what nobody uses."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._offer_shelf())
            await self._begin()
            self.settled.set()
            while True:
                await asyncio.sleep(LOOK_S)
                await self._unload_idle()

    def alive(self, within_s: float) -> bool:
        """Whether all supervisors made progress lately."""
        return all(one.alive(within_s) for one in self._all.values())

    async def close(self) -> None:
        await asyncio.gather(*(one.stop() for one in self._all.values()))

    async def pull(self, source: str, name: str | None) -> AsyncIterator[dict[str, Any]]:
        """Rows of progress, then what was pulled. A loaded Model changes to it. Raises ModelError."""
        task, rows = started(source, name, self._shelf)
        try:
            while (progress := await rows.get()) is not None:
                yield {"phase": progress.phase, "done": progress.done, "total": progress.total}
            version = await task
        finally:
            task.cancel()
            await asyncio.wait({task})
        if self._is_wanted(version):
            yield {"phase": "load", "done": 0, "total": None}
            await self.load(version)
        else:
            await self._offer(version)
        yield {"model": version.model, "version": version.version, "path": str(version.path)}

    async def load(self, version: Version) -> None:
        """Serve this Version: by drain and swap where another of its Model is loaded.

        Raises ModelError, and the former one serves on, where it does not load. It goes on where the caller
        is cancelled: half a swap would serve nothing.
        """
        outcome: asyncio.Future[ModelError | OSError | None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            try:
                async with self._changing:
                    await self._load(version)
                outcome.set_result(None)
            except (ModelError, OSError) as error:
                log.error("a Version cannot be served", version=version.version, error=str(error))
                outcome.set_result(error)

        self._go(work())
        if error := await asyncio.shield(outcome):
            raise error

    async def unload(self, name: str) -> None:
        """Free a Model's memory; it is offered still, and loaded again when somebody asks. NotOnShelf."""
        resident = self._all.get(split_name(name)[0])
        if resident is None:
            raise NotOnShelf(f"{name} is not on the shelf: see `autoglm models`")
        async with self._changing:
            await resident.unload()

    async def remove(self, name: str) -> list[Manifest]:
        """Take `model` or `model:version` off the shelf. NotOnShelf, or Conflict where it is loaded."""
        model, version = split_name(name)
        async with self._changing:  # what a swap goes to, or may fall back to, stays
            resident = self._all.get(model)
            loaded = resident.loaded.offered if resident and resident.loaded else None
            if loaded and version in (None, loaded.version):
                raise Conflict(
                    f"{model}:{loaded.version} is being served. To remove it, unload it first;"
                    f" to remove another version, name it: {model}:VERSION"
                )
            gone = await asyncio.to_thread(self._shelf.remove, model, version)
            if resident and not loaded:
                await self._reconsider(resident)
            return gone

    # The first Model.

    async def _begin(self) -> None:
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
            await self.load(version)
        except (ModelError, OSError) as error:
            self._serving.hold(f"the model cannot be loaded: {error}")
            if lane := self._all.get(version.model):
                lane.lane.hold(f"the model cannot be loaded: {error}")

    # Coming and going.

    async def _offer_shelf(self) -> None:
        seen: set[str] = set()
        for version in await asyncio.to_thread(self._shelf.versions):  # of each Model the newest first
            if version.model in seen | self._all.keys():
                continue
            seen.add(version.model)
            try:
                await self._offer(version)
            except (ModelError, OSError) as error:
                log.warning("a model on the shelf is not offered", model=version.model, error=str(error))

    async def _offer(self, version: Version) -> tuple[Resident, Offered]:
        """Let this Version answer for its Model from the next load on. Raises BadFile, OSError."""
        offered = await asyncio.to_thread(describe, version)
        resident = self._all.get(version.model)
        if resident is not None:
            if resident.loaded is None:
                resident.lane.offer(offered)
            return resident, offered
        telemetry = self._telemetry.model(offered.name)
        lane = self._lane(offered, telemetry)
        resident = Resident(lane, self._settings, telemetry, self._tasks())
        self._all[offered.name] = resident
        self._serving.open(lane)
        return resident, offered

    def _lane(self, offered: Offered, telemetry: ModelTelemetry) -> Lane:
        if offered.makes_tensors:
            return TensorLane(offered, self._settings, telemetry, self._limits, self._used)
        return TextLane(offered, self._settings, telemetry, self._templates, self._limits, self._used)

    async def _reconsider(self, resident: Resident) -> None:
        """Versions of a Model at rest were removed."""
        try:
            await self._offer(await asyncio.to_thread(self._shelf.get, resident.model))
        except (ModelError, OSError):
            del self._all[resident.model]
            self._serving.shut(resident.lane)
            await resident.stop()

    def _is_wanted(self, version: Version) -> bool:
        """Whether what was pulled is to be loaded now: its Model is, or nothing is served at all."""
        resident = self._all.get(version.model)
        if resident and resident.loaded:
            return resident.loaded.offered.version != version.version
        return self._serving.find("") is None or (resident is not None and resident.pinned)

    def _used(self, lane: Lane, keep_alive: float | None) -> None:
        resident = self._all[lane.model.name]
        resident.used = time.monotonic()
        if keep_alive is not None:
            resident.keep_alive = keep_alive
        if resident.loaded is None and resident.model not in self._coming:
            self._coming.add(resident.model)
            self._go(self._load_for_use(resident))

    async def _load_for_use(self, resident: Resident) -> None:
        try:
            async with self._changing:
                if resident.loaded is None:
                    model = resident.lane.model
                    await self._load(await asyncio.to_thread(self._shelf.get, model.name, model.version))
        except (ModelError, OSError) as error:
            log.error("a model that is asked for cannot be loaded", model=resident.model, error=str(error))
            resident.lane.abandon(Unavailable(f"the model cannot be loaded: {error}", retry_after=10))
        finally:
            self._coming.discard(resident.model)

    async def _load(self, version: Version) -> None:
        """`_changing` is held."""
        resident, offered = await self._offer(version)
        if self._serving.find("") is None:
            self._serving.prefer(resident.lane)
            resident.pinned = True
        new = await self._prepared(offered)
        resident.lane.hold("")
        if resident.loaded is None:
            await self._make_room(new)
            if not await resident.load(new) and not resident.pinned:  # a pinned one is tried again
                why = resident.lane.ready()[1]
                await resident.unload()
                raise ModelError(f"{version.model} does not load: {why}")
        else:
            await resident.swap(new)

    async def _prepared(self, offered: Offered) -> Prepared:
        """All that can be found out of it while others serve on."""
        settings = await device.engine_settings(self._settings, offered)
        launch = Launch(
            offered.name, offered.version, offered.engine(self._settings.engine), offered.path, settings
        )
        return Prepared(offered, launch, memory.need(offered, settings))

    async def _make_room(self, new: Prepared) -> None:
        """Unload the Models that were idle for longest, until there is memory enough. NoMemory."""
        now, need = time.monotonic(), new.need
        idle = [one for one in self._all.values() if one.loaded and not one.pinned and one.lane.idle]
        idle.sort(key=lambda one: one.idle_s(now))
        there = memory.available()
        if there + sum(one.loaded.need for one in idle if one.loaded) < need:
            raise memory.NoMemory(new.offered.name, need, there)
        while idle and memory.available() < need:
            victim = idle.pop()
            log.info("unloaded to make room", model=victim.model, wanted=new.offered.name)
            await victim.unload()

    async def _unload_idle(self) -> None:
        for resident in [one for one in self._all.values() if one.is_over(time.monotonic())]:
            async with self._changing:
                if resident.is_over(time.monotonic()):
                    log.info("unloaded: nobody used it", model=resident.model, for_s=resident.keep_alive)
                    await resident.unload()

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks().create_task(work)

    def _tasks(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("run() was not called")
        return self._group
