"""Which Version the node serves: the first load, and the drain and swap to a new one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from agent import device
from agent.config import Settings
from agent.errors import Conflict
from agent.offered import Offered
from agent.serving import Serving
from agent.supervisor import Deadlines, Launch, State, Supervisor
from agent.telemetry import Telemetry
from models.errors import ModelError, Unreachable
from models.gguf import read_header
from models.manifest import Manifest
from models.shelf import Shelf, Version, split_name
from models.sources import Progress, known, pull

log = structlog.get_logger()

RETRY_S = 30.0  # between tries to get the first model


@dataclass(frozen=True, slots=True)
class Prepared:
    """A Version, ready to be loaded."""

    offered: Offered
    launch: Launch


class Activation:
    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        shelf: Shelf,
        telemetry: Telemetry,
        report: Callable[[Progress], None] | None,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._shelf = shelf
        self._telemetry = telemetry
        self._report = report
        self._supervisor: Supervisor | None = None
        self._running: asyncio.Task[None] | None = None
        self._prepared_now: Prepared | None = None
        self._group: asyncio.TaskGroup | None = None
        self._changing = asyncio.Lock()
        self.settled = asyncio.Event()  # the first load has ended, well or badly

    async def run(self) -> None:
        """Get the model, load it, and keep it up."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            if version := await self._first():
                try:
                    await self.activate(version)
                except (ModelError, OSError) as error:
                    self._serving.hold(f"the model cannot be loaded: {error}")
            self.settled.set()
            await asyncio.Event().wait()

    def alive(self, within_s: float) -> bool:
        """Whether the supervisor made progress lately."""
        one = self._supervisor
        if one is None or one.state is State.STOPPED:
            return True
        return time.monotonic() - one.progressed < within_s + 1

    async def close(self) -> None:
        if self._supervisor:
            await self._supervisor.stop()

    async def pull(self, source: str, name: str | None) -> AsyncIterator[dict[str, Any]]:
        """Rows of progress, then what was pulled. Raises ModelError."""
        rows: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def report(progress: Progress) -> None:
            rows.put_nowait({"phase": progress.phase, "done": progress.done, "total": progress.total})

        async def work() -> Version:
            try:
                return await pull(source, self._shelf, name=name, report=report)
            finally:
                rows.put_nowait(None)

        task = asyncio.create_task(work())
        try:
            while (row := await rows.get()) is not None:
                yield row
            version = await task
        finally:
            task.cancel()
            await asyncio.wait({task})
        active = self._serving.offered()
        if not active or (active[0].name == version.model and active[0].version != version.version):
            yield {"phase": "load", "done": 0, "total": None}
            await self.activate(version)
        yield {"model": version.model, "version": version.version, "path": str(version.path)}

    async def remove(self, name: str) -> list[Manifest]:
        """Take `model` or `model:version` off the shelf. NotOnShelf, or Conflict where it is served."""
        model, version = split_name(name)
        async with self._changing:  # what a swap goes to, or may fall back to, stays
            served = self._prepared_now.offered if self._prepared_now else None
            if served and served.name == model and version in (None, served.version):
                raise Conflict(
                    f"{model}:{served.version} is being served. To remove it, serve another model first;"
                    f" to remove another version, name it: {model}:VERSION"
                )
            return await asyncio.to_thread(self._shelf.remove, model, version)

    async def activate(self, version: Version) -> None:
        """Serve this Version, by drain and swap; ModelError, and the former one, where it does not load.

        It goes on where the caller is cancelled: half a swap would serve nothing.
        """
        outcome: asyncio.Future[ModelError | OSError | None] = asyncio.get_running_loop().create_future()
        self._tasks().create_task(self._swap(version, outcome))
        if error := await asyncio.shield(outcome):
            raise error

    async def _swap(self, version: Version, outcome: asyncio.Future[ModelError | OSError | None]) -> None:
        try:
            async with self._changing:
                await self._change(await self._prepared(version))
            outcome.set_result(None)
        except (ModelError, OSError) as error:
            log.error("a Version cannot be served", version=version.version, error=str(error))
            outcome.set_result(error)

    async def _prepared(self, version: Version) -> Prepared:
        """All that can be found out of it while the former one serves on."""
        offered = await asyncio.to_thread(describe, version)
        settings = await device.engine_settings(self._settings, offered)
        launch = Launch(offered.name, offered.version, self._settings.engine, offered.path, settings)
        return Prepared(offered, launch)

    async def _change(self, new: Prepared) -> None:
        former = self._prepared_now
        self._serving.hold("a new Version is being loaded")
        try:
            if self._supervisor is not None:
                await self._serving.drain(self._settings.drain_s)
                await self._end(self._supervisor)
            if await self._start(new) or former is None:
                return
            if self._supervisor is not None:
                await self._end(self._supervisor)
            await self._start(former)
            raise ModelError(f"version {new.launch.version} does not load; the former one serves on")
        finally:
            self._serving.hold("")

    async def _start(self, prepared: Prepared) -> bool:
        """Start a supervisor, wait for the first load. False: it failed; the supervisor goes on trying."""
        deadlines = Deadlines(self._settings.worker_deadline_s, self._settings.load_deadline_s)
        supervisor = Supervisor(prepared.launch, self._serving, deadlines, self._telemetry)
        self._supervisor, self._prepared_now = supervisor, prepared
        self._serving.attach(prepared.offered, supervisor)
        self._running = self._tasks().create_task(supervisor.run())
        await supervisor.settled.wait()
        return supervisor.state is State.READY

    def _tasks(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("run() was not called")
        return self._group

    async def _end(self, supervisor: Supervisor) -> None:
        await supervisor.stop()
        if self._running:
            await asyncio.wait({self._running})

    async def _first(self) -> Version | None:
        """The model that the settings name: from the shelf, else pulled, however long that takes."""
        while True:
            try:
                return await self._wanted()
            except Unreachable as error:
                log.warning("cannot get the model yet", error=str(error), retry_in_s=RETRY_S)
                self._serving.hold(f"the model cannot be fetched: {error}")
                self.settled.set()
            except (ModelError, OSError) as error:
                log.error("no model to serve", error=str(error))
                self._serving.hold(f"no model to serve: {error}")
                return None
            await asyncio.sleep(RETRY_S)

    async def _wanted(self) -> Version:
        source = self._settings.model
        if version := await asyncio.to_thread(known, source, self._shelf):
            return version
        self._serving.hold(f"the model {source} is being pulled")
        return await pull(source, self._shelf, report=self._report or (lambda _: None))


def describe(version: Version) -> Offered:
    """What callers and the engine must know of a Version before it is loaded. Raises GGUFError."""
    header = read_header(Path(version.path))
    tokens = {"bos_token": header.bos_token or "", "eos_token": header.eos_token or ""}
    return Offered(
        name=version.model,
        version=version.version,
        path=str(version.path),
        size=version.size,
        created=version.manifest.created,
        template=header.chat_template,
        tokens=tokens,
        trained_context=header.context_length,
        header=header,
    )
