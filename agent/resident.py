"""One Model on this node: its live Versions, at rest on the shelf or loaded in Workers of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from agent.config import Settings
from agent.errors import Unavailable
from agent.offered import Offered
from agent.places import Span
from agent.replica import Prepared, Replica
from agent.replicas import Elsewhere
from agent.route import Lane, Live, Route
from agent.space import Space
from models import onnx, remote
from models.errors import ModelError
from models.gguf import read_header
from models.shelf import Version

log = structlog.get_logger()


class Resident:
    """Changes come one at a time; whoever calls them has made room in the memory."""

    def __init__(
        self,
        offered: Offered,
        make: Callable[[Offered, Elsewhere], Replica],
        settings: Settings,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._make = make
        self._tasks = tasks
        self._replicas: dict[Live, list[Replica]] = {}
        self._prepared: dict[Live, Prepared] = {}  # those that are loaded
        self.route = Route(self._new(offered))
        self.instances = 1  # Workers of the stable Version
        self.pinned = False  # never unloaded but by command
        self.keep_alive = self._keep_alive = settings.keep_alive  # seconds without use; negative: for ever
        self.used = time.monotonic()  # when it last had something to do

    @property
    def model(self) -> str:
        return self.route.model.name

    @property
    def loaded(self) -> Prepared | None:
        """The stable Version, where it is loaded."""
        return self._prepared.get(self.route.stable)

    @property
    def versions(self) -> set[str]:
        """All that are live, while any is loaded or tried."""
        if not self._prepared and not self.route.canaries:
            return set()
        return {live.model.version for live in self.route.live}

    @property
    def need(self) -> Space:
        """The memory that its Workers take, predicted."""
        found = Space()
        for live, new in self._prepared.items():
            embed = sum(lane.embeds for lane in live.lanes)
            found += new.need * len(self._replicas[live]) + new.to_embed * embed
        return found

    @property
    def idle(self) -> bool:
        return not any(lane.load for lane in self.route.lanes())

    def idle_s(self, now: float) -> float:
        """How long it has had nothing to do."""
        if not self.idle:
            self.used = now
        return now - self.used

    def is_over(self, now: float) -> bool:
        """Whether nobody has used it for so long that its memory is to be freed."""
        if not self.loaded or self.pinned or self.keep_alive < 0:
            return False
        return self.idle_s(now) > self.keep_alive and self.idle

    def alive(self, within_s: float) -> bool:
        """Whether the supervisors made progress lately."""
        return all(one.alive(within_s) for ones in self._replicas.values() for one in ones)

    # The stable Version.

    def offer(self, offered: Offered) -> None:
        """Let another Version be the stable one. Not while one is loaded."""
        if offered.version != self.route.stable.model.version:
            self._switch(self.route.find(offered.version) or self._new(offered))

    async def load(self, new: Prepared) -> bool:
        """Load the stable Version. False: that failed; its supervisor goes on trying."""
        self._prepared[self.route.stable] = new
        self.used = time.monotonic()
        return await self._start(self.route.stable, new)

    async def swap(self, new: Prepared, *, beside: bool) -> None:
        """Another Version in place of the stable one, or that one with other settings.

        It is loaded `beside` the former, or after it where memory is short.

        ModelError, and the former one serves on, where the new one does not load.
        """
        former, began = self.route.stable, time.monotonic()
        if not beside:
            await self._unload(former, "a new Version is being loaded")
            for lane in former.lanes:
                lane.hold("a new Version is being loaded")
        live = self._new(new.offered)
        self._prepared[live] = new
        if await self._start(live, new):
            if not beside:
                log.warning("nobody was served", model=self.model, for_s=round(time.monotonic() - began, 1))
            return self._switch(live)
        why = live.ready()[1]
        await self._drop(live)
        if not beside:
            await self._start(former, self._prepared[former])
        raise ModelError(f"version {new.offered.version} does not load ({why}); the former one serves on")

    def keep(self, seconds: float) -> None:
        """As it is set from now on."""
        if seconds != self._keep_alive:
            self.keep_alive = self._keep_alive = seconds

    def plan_workers(self, count: int) -> None:
        """So many of the stable Version, from its next load on."""
        self.instances = count
        if not self.loaded and len(self.route.stable.lanes) > count:
            self._switch(self._new(self.route.model))

    def is_asked(self, live: Live, wanted: tuple[object, ...]) -> bool:
        """Whether a Version's Workers, where it has some, are as they are to be."""
        new = self._prepared.get(live)
        return new is None or new.asked == wanted

    async def reload_canary(self, live: Live, new: Prepared) -> None:
        """With other settings; the stable Version answers meanwhile. ModelError: it is at rest."""
        del self._prepared[live]
        await self._unload(live, "its settings changed")
        await self.load_canary(live, new)

    async def unload(self) -> None:
        """Drain, then stop all Workers. A Request that comes meanwhile waits, and loads them again."""
        self._prepared.clear()
        self.keep_alive = self._keep_alive
        for live in self.route.live:
            await self._unload(live, "the model is being unloaded")

    async def stop(self) -> None:
        """The agent ends, or the Model was removed."""
        for one in [one for ones in self._replicas.values() for one in ones]:
            await one.stop()

    # Canaries.

    def plan(self, offered: Offered, weight: float, shadow: bool, had: Iterable[Span] = ()) -> Live:
        """Let a Version be live beside the stable one, for whom it `had` before this agent started, too.

        It has no turns until it is loaded.
        """
        live = self.route.find(offered.version)
        if live is None:
            live = self._new(offered)
            self.route.canaries.append(live)
        live.shadow = shadow
        self.route.weigh(live, weight, had)
        return live

    async def load_canary(self, live: Live, new: Prepared) -> None:
        """ModelError, and it is at rest, where it does not load."""
        self._prepared[live] = new
        if not await self._start(live, new):
            why = live.ready()[1]
            del self._prepared[live]
            await self._unload(live, "it does not load")
            raise ModelError(f"version {new.offered.version} does not load: {why}")

    def resting_canaries(self) -> list[Live]:
        """Those that are not loaded."""
        return [live for live in self.route.canaries if live not in self._prepared]

    def rests(self, lane: Lane) -> bool:
        """Whether this lane's Version has no Worker."""
        return not any(lane in live.lanes for live in self._prepared)

    async def promote(self, live: Live) -> None:
        """A canary becomes the stable Version."""
        self._switch(live)
        if live in self._prepared:
            await self._fill(live)

    def abort(self, live: Live) -> None:
        """A canary is live no longer."""
        self.route.canaries.remove(live)
        self._tasks.create_task(self._retire(live))

    # All of them.

    def _new(self, offered: Offered) -> Live:
        """A Version with one lane; more come when it is loaded."""
        replica = self._make(offered, lambda lane: self.route.other(lane))
        live = Live([replica.lane])
        self._replicas[live] = [replica]
        return live

    async def _start(self, live: Live, new: Prepared) -> bool:
        loaded = [await replica.load(new) for replica in self._replicas[live]]
        if live not in self.route.canaries:
            await self._fill(live)
        return any(loaded)

    async def _fill(self, live: Live) -> None:
        """As many Workers as the Model is to have."""
        replicas = self._replicas[live]
        while len(replicas) < self.instances:
            replica = self._make(live.lanes[0].model, lambda lane: self.route.other(lane))
            replicas.append(replica)
            live.lanes.append(replica.lane)
            await replica.load(self._prepared[live])

    def _switch(self, live: Live) -> None:
        """From now on this Version is the stable one; the former ends its answers and goes."""
        former, self.route.stable = self.route.stable, live
        if live in self.route.canaries:
            self.route.canaries.remove(live)
            live.weight, live.shadow, live.spans = 0.0, False, []
        for canary in list(self.route.canaries):
            if type(canary.lanes[0]) is not type(live.lanes[0]):
                log.warning(
                    "a canary of another kind is gone", model=self.model, version=canary.model.version
                )
                self.abort(canary)
        self._tasks.create_task(self._retire(former))

    async def _retire(self, live: Live) -> None:
        """What waits, and what cannot be ended in time, goes on with the stable Version."""
        self.route.retiring.append(live)
        await asyncio.gather(*(one.retire(lambda: self.route.stable.lane()) for one in self._replicas[live]))
        self.route.retiring.remove(live)
        del self._replicas[live]
        self._prepared.pop(live, None)

    async def _unload(self, live: Live, why: str) -> None:
        for replica in self._replicas[live]:
            await replica.unload(why)

    async def _drop(self, live: Live) -> None:
        """It did not load."""
        for replica in self._replicas.pop(live):
            replica.lane.abandon(Unavailable(f"version {live.model.version} does not load", retry_after=10))
            await replica.stop()
        self._prepared.pop(live, None)


def describe(version: Version) -> Offered:
    """What callers and the engine must know of a Version before it is loaded. Raises BadFile."""
    offered = Offered(
        name=version.model,
        version=version.version,
        path=str(version.path),
        size=version.size,
        created=version.manifest.created,
    )
    if version.manifest.engine in remote.ENGINES:
        there = remote.read(version.path)
        return replace(offered, remote=there, trained_context=there.context)
    if version.manifest.engine == "onnx":
        tensors, pipeline = onnx.read_header(version.path), version.manifest.pipeline
        if pipeline is not None:
            tensors = replace(tensors, inputs=pipeline.inputs, outputs=pipeline.outputs)
        return replace(offered, tensors=tensors, pipeline=pipeline, folder=str(version.folder))
    header = read_header(version.path)
    return replace(
        offered,
        template=header.chat_template,
        tokens={"bos_token": header.bos_token or "", "eos_token": header.eos_token or ""},
        trained_context=header.context_length,
        header=header,
    )
