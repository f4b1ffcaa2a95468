"""One Model on this node: at rest on the shelf, or loaded in a Worker of its own."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from agent.config import Settings
from agent.offered import Offered
from agent.serving import Lane
from agent.supervisor import Deadlines, Launch, State, Supervisor
from agent.telemetry import ModelTelemetry
from models import onnx
from models.errors import ModelError
from models.gguf import read_header
from models.shelf import Version


@dataclass(frozen=True, slots=True)
class Prepared:
    """A Version, ready to be loaded."""

    offered: Offered
    launch: Launch
    need: int  # bytes of memory, predicted


class Resident:
    """Changes come one at a time; whoever calls them has made room in the memory."""

    def __init__(
        self, lane: Lane, settings: Settings, telemetry: ModelTelemetry, tasks: asyncio.TaskGroup
    ) -> None:
        self.lane = lane
        self.loaded: Prepared | None = None
        self.pinned = False  # never unloaded but by command
        self.keep_alive = settings.keep_alive  # seconds without use; negative: for ever
        self.used = time.monotonic()  # when it last had something to do
        self._settings = settings
        self._telemetry = telemetry
        self._tasks = tasks
        self._lane_runs = tasks.create_task(lane.run())
        self._supervisor: Supervisor | None = None
        self._supervisor_runs: asyncio.Task[None] | None = None

    @property
    def model(self) -> str:
        return self.lane.model.name

    def idle_s(self, now: float) -> float:
        """How long it has had nothing to do."""
        if not self.lane.idle:
            self.used = now
        return now - self.used

    def is_over(self, now: float) -> bool:
        """Whether nobody has used it for so long that its memory is to be freed."""
        if not self.loaded or self.pinned or self.keep_alive < 0:
            return False
        return self.idle_s(now) > self.keep_alive and self.lane.idle

    def alive(self, within_s: float) -> bool:
        """Whether the supervisor made progress lately."""
        one = self._supervisor
        if one is None or one.state is State.STOPPED:
            return True
        return time.monotonic() - one.progressed < within_s + 1

    async def load(self, new: Prepared) -> bool:
        """Start a Worker, wait for its first load. False: that failed; the supervisor goes on trying."""
        deadlines = Deadlines(self._settings.worker_deadline_s, self._settings.load_deadline_s)
        supervisor = Supervisor(new.launch, self.lane, deadlines, self._telemetry)
        self._supervisor, self.loaded, self.used = supervisor, new, time.monotonic()
        self.lane.attach(new.offered, supervisor)
        self._supervisor_runs = self._tasks.create_task(supervisor.run())
        await supervisor.settled.wait()
        return supervisor.state is State.READY

    async def swap(self, new: Prepared) -> None:
        """Drain, then load. ModelError, and the former Version, where the new one does not load."""
        former = self.loaded
        self.lane.hold("a new Version is being loaded")
        try:
            await self._end()
            if await self.load(new) or former is None:
                return
            await self._end()
            await self.load(former)
            raise ModelError(f"version {new.launch.version} does not load; the former one serves on")
        finally:
            self.lane.hold("")

    async def unload(self) -> None:
        """Drain, then stop the Worker. A Request that comes meanwhile waits, and loads it again."""
        self.lane.hold("the model is being unloaded")
        try:
            await self._end()
        finally:
            self.lane.hold("")
        self.lane.detach()

    async def stop(self) -> None:
        """The agent ends, or the Model was removed."""
        if self._supervisor:
            await self._supervisor.stop()
        self._lane_runs.cancel()

    async def _end(self) -> None:
        if self._supervisor is None or self._supervisor_runs is None:
            return
        await self.lane.drain(self._settings.drain_s)
        await self._supervisor.stop()
        await asyncio.wait({self._supervisor_runs})
        self._supervisor = self._supervisor_runs = self.loaded = None


def describe(version: Version) -> Offered:
    """What callers and the engine must know of a Version before it is loaded. Raises BadFile."""
    offered = Offered(
        name=version.model,
        version=version.version,
        path=str(version.path),
        size=version.size,
        created=version.manifest.created,
    )
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
