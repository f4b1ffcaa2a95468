"""One Worker of a live Version, and the lane that leads to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent import device
from agent.config import Settings
from agent.errors import Unavailable
from agent.memory import Memory
from agent.offered import Offered
from agent.route import Lane
from agent.space import Space
from agent.supervisor import Deadlines, Launch, State, Supervisor
from agent.telemetry import ModelTelemetry
from agent.tensor_lane import TensorLane
from agent.text_lane import TextLane

ASKED = ("max_batch_size", "threads", "gpu_layers", "worker_deadline_s", "load_deadline_s")
OF_TEXT = ("context", "kv_type", "flash_attention", "step_target_ms", "prefill_piece")
OF_TENSORS = ("opt_batch_size", "delay_ms")
OWN = ("instances", "cpu_share")
OWN_OF_TENSORS = ("cap", "runners", "lone_threads")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A Version, ready to be loaded."""

    offered: Offered
    launch: Launch
    need: Space  # that each of its Workers takes, predicted
    to_embed: Space = Space()  # noqa: RUF009 - frozen; more of it, once a model that generates text embeds
    asked: tuple[Any, ...] = ()  # see `asked`


def asked(settings: Settings, offered: Offered) -> tuple[Any, ...]:
    """What is set of a Version's Workers: where it is another, they are to be started anew."""
    here, own = settings.of(offered.name), settings.own(offered.name)
    theirs = (OF_TENSORS, OWN_OF_TENSORS) if offered.makes_tensors else (OF_TEXT, ())
    return (
        *(getattr(here, name) for name in (*ASKED, *theirs[0])),
        *(getattr(own, name) for name in (*OWN, *theirs[1])),
    )


async def prepared(settings: Settings, offered: Offered, memory: Memory) -> Prepared:
    """All that can be found out of a Version while others serve on."""
    wanted = asked(settings, offered)
    chosen = await device.engine_settings(settings, offered, memory)
    engine = offered.engine(settings.engine)
    chosen["cpu_share"] = settings.own(offered.name).cpu_share
    launch = Launch(offered.name, offered.version, engine, offered.path, chosen)
    more = memory.to_embed(offered, chosen)
    chosen["embed_need"] = more.machine
    return Prepared(offered, launch, memory.need(offered, chosen), more, wanted)


class Replica:
    """Changes come one at a time; whoever calls them has made room in the memory."""

    def __init__(
        self,
        lane: Lane,
        settings: Settings,
        telemetry: ModelTelemetry,
        tasks: asyncio.TaskGroup,
        retired: Callable[[], None],
    ) -> None:
        self.lane = lane
        self._retired = retired
        self._settings = settings
        self._telemetry = telemetry
        self._tasks = tasks
        self._lane_runs = tasks.create_task(lane.run())
        self._supervisor: Supervisor | None = None
        self._supervisor_runs: asyncio.Task[None] | None = None

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
        self._supervisor = supervisor
        self.lane.attach(supervisor)
        self.lane.hold("")
        self._supervisor_runs = self._tasks.create_task(supervisor.run())
        await supervisor.settled.wait()
        return supervisor.state is State.READY

    async def unload(self, why: str) -> None:
        """Drain, then stop the Worker. What comes meanwhile waits in the lane."""
        self.lane.hold(why)
        try:
            await self.lane.drain(self._settings.drain_s)
            await self._end()
        finally:
            self.lane.hold("")
        self.lane.detach()

    async def retire(self, other: Callable[[], Lane]) -> None:
        """As `unload`, for good; what waits goes on in another lane."""
        self._give_away(other())
        self.lane.hold("another Version takes over")
        await self.lane.drain(self._settings.drain_s)
        await self._end()
        self._give_away(other())
        self._lane_runs.cancel()
        self._retired()

    async def stop(self) -> None:
        """The agent ends, or the Model was removed."""
        if self._supervisor:
            await self._supervisor.stop()
        self._lane_runs.cancel()

    async def _end(self) -> None:
        if self._supervisor is None or self._supervisor_runs is None:
            return
        await self._supervisor.stop()
        await asyncio.wait({self._supervisor_runs})
        self._supervisor = self._supervisor_runs = None

    def _give_away(self, other: Lane) -> None:
        if isinstance(self.lane, TextLane) and isinstance(other, TextLane):
            return self.lane.move_to(other)
        if isinstance(self.lane, TensorLane) and isinstance(other, TensorLane):
            return self.lane.move_to(other)
        self.lane.abandon(Unavailable("the model was replaced by one of another kind", retry_after=1))
